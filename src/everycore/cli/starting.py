"""From settings to a running pool: what `serve` and `run` have in common once everything is checked.

This module makes the pool and its pid file, and reads the settings again for a reload. Invariant: a settings
file that is wrong at a reload changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import msgspec

from everycore.cli.activation import passed_descriptors
from everycore.cli.options import Values, naming_sources
from everycore.config.common import CommonSettings
from everycore.config.control import OFF
from everycore.config.layers import File
from everycore.config.setting import Field
from everycore.config.tree import ServeSettings
from everycore.core.recycling import RecyclingLimits, recycling_limits
from everycore.core.stalls import stall_limits
from everycore.errors import ConfigurationError
from everycore.ops import logs
from everycore.ops.log_formats import PRIMARY, TEXT
from everycore.ops.log_handlers import LogFile
from everycore.ops.pidfile import pid_file
from everycore.ops.settings_file import OPTION, OWN
from everycore.settings import Settings
from everycore.system.machine import Bound
from everycore.system.plain_files import APPENDING, open_for

if TYPE_CHECKING:
    from everycore.ops.service import Outcome
    from everycore.pool import Pool
    from everycore.primary.controlling import ControlPlan
    from everycore.primary.observing import ObserverPost

log = logging.getLogger("everycore.cli")

#: A slot fails once this many of its workers have ended within a minute. The command ends once all have
#: failed.
MOST_ENDS: Final = 5
#: The engine's option for the certificate: an engine that is given one speaks TLS.
CERTIFICATE: Final = "ssl_certfile"
TRUST: Final = "--trust-proxy-protocol"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, checked.

    settings: every setting. worker: how a worker is started. folder: relative paths begin there; None is the
    current folder. log_file: the absolute path of the primary's log; None is stderr. owner: the uid and gid
    of log files. name: the name of the service.
    """

    name: str
    values: Values
    settings: CommonSettings
    workers: Bound
    worker: Settings
    folder: str | None
    log_file: str | None
    owner: tuple[int, int] | None
    boot_timeout: float | None
    shutdown_timeout: float


def become(words: list[str], settings: CommonSettings, folder: str | None, **variables: str) -> NoReturn:
    """Replace this process by one that runs `words`, on a system that has no cluster.

    Raises ConfigurationError for a setting that needs a cluster.
    """
    if settings.trust_proxy_protocol:
        raise ConfigurationError(TRUST, "needs a cluster, whose primary reads the headers of the proxy")
    if settings.metrics is not None:
        raise ConfigurationError("--metrics", "needs a cluster, whose primary knows what is measured")
    if folder is not None:
        os.chdir(folder)
    if settings.umask is not None:
        os.umask(settings.umask)
    os.environ.update(settings.env | variables)
    os.execv(words[0], words)  # noqa: S606 - that process is this service from here on


def start(plan: Plan, read: Callable[[], Plan], run: Callable[[Pool], Outcome], **rest: Any) -> int:
    """Run the pool that `plan` describes until it ends. Returns the exit status.

    read: reads the settings again, for a reload. rest: further arguments of `Pool`.
    """
    from everycore.pool import Pool  # late: a wrong option must not wait for asyncio
    from everycore.primary.listeners.passed import PassedSockets

    settings = plan.settings
    rereading = Rereading(plan, read)
    pid = None if settings.pid is None else os.path.join(plan.folder or "", settings.pid)
    with naming_sources(plan.values), _umask(settings.umask), _logging(plan):
        with pid_file(pid):
            for line in plan.values.ignored:
                log.warning("%s", line)
            count = plan.workers.count
            log.info("starting %d worker%s (%s)", count, "" if count == 1 else "s", plan.workers.reason)
            pool = Pool(
                count,
                settings=plan.worker,
                policy=settings.policy,
                trust_proxy_protocol=settings.trust_proxy_protocol,
                grace=settings.grace,
                shutdown_timeout=plan.shutdown_timeout,
                boot_timeout=plan.boot_timeout,
                surge=settings.surge,
                signals=True,
                new_group=True,
                raise_nofile=not settings.keep_nofile,
                before_reload=rereading,
                give_up=MOST_ENDS,
                **_stalls(plan),
                **_recycling(plan),
                **rest,
            )
            pool.cluster._terms = msgspec.structs.replace(pool.cluster._terms, has_launcher=True)
            pool.cluster._distribution.passed = PassedSockets(passed_descriptors(os.environ, os.getpid()))
            pool._control.plan = _control_plan(plan, rereading)
            pool._control.observer = _observer(plan)
            rereading.pool = pool
            outcome = run(pool)
        if outcome.text:
            _say(outcome.text, rereading.plan)
    return outcome.status


def check_proxies(settings: CommonSettings) -> None:
    """Raise ConfigurationError for a policy under which nothing reads the PROXY header of a trusted proxy."""
    if settings.trust_proxy_protocol and settings.policy == "shared":
        problem = "needs a policy by which the primary accepts: --policy round_robin or sticky, not shared"
        raise ConfigurationError(TRUST, problem)


def _stalls(plan: Plan) -> dict[str, Any]:
    """The arguments of `Pool` about stuck workers. With `--reload`, a worker may be stopped in a debugger."""
    kill = plan.values.found["stall_kill"]
    is_off = plan.settings.reload and not kill.is_explicit
    return {"stall_dump": plan.settings.stall_dump, "stall_kill": 0.0 if is_off else kill.value}


def _recycling(plan: Plan) -> dict[str, Any]:
    """The arguments of `Pool` about replacing workers."""
    found = plan.values.found
    return {name: found[name].value for name in RecyclingLimits.__struct_fields__ if name in found}


def _control_plan(plan: Plan, rereading: Rereading) -> ControlPlan | None:
    from everycore.primary.controlling import ControlPlan  # late: a wrong option must not wait for asyncio

    path = plan.settings.control
    if path == OFF and plan.settings.metrics is None:
        return None
    is_served = isinstance(plan.settings, ServeSettings)
    whole = None if path in (None, OFF) else os.path.abspath(os.path.join(plan.folder or "", path))
    return ControlPlan(
        plan.name,
        "serve" if is_served else "run",
        whole,
        "--control",
        by_signal=True,
        stacks_file=lambda: rereading.plan.log_file if is_served else None,
        listens=path != OFF,
    )


def _observer(plan: Plan) -> ObserverPost | None:
    if plan.settings.metrics is None:
        return None
    from everycore.cli.observing import observer_plan  # late: only --metrics needs it
    from everycore.primary.observing import ObserverPost

    return ObserverPost(observer_plan(plan.settings, plan.worker, plan.folder, plan.log_file))


@contextlib.contextmanager
def _logging(plan: Plan) -> Iterator[None]:
    _configure_logs(plan)
    try:
        yield
    finally:
        logs.close_files()


def _configure_logs(plan: Plan) -> None:
    """Configure the logs. Raises ConfigurationError, and changes nothing, if a file cannot be written."""
    settings = plan.settings
    LogFile.owner = plan.owner
    try:
        logs.configure(PRIMARY, settings.log_level, format=settings.log_format, file=plan.log_file)
    except OSError as error:
        problem = f"cannot write {plan.log_file!r}: {logs.reason(error)}"
        raise ConfigurationError("--log-file", problem) from None
    _make_access_log(plan)


def _make_access_log(plan: Plan) -> None:
    """Make the access log if the workers, which open it, are another user that may make no file there."""
    path = getattr(plan.settings, "access_logfile", None)
    if plan.owner is None or path in (None, logs.STDERR):
        return
    try:
        os.close(open_for(plan.owner, os.path.join(plan.folder or "", path), APPENDING))
    except OSError as error:
        problem = f"cannot write {path!r}: {logs.reason(error)}"
        raise ConfigurationError("--access-logfile", problem) from None


def _say(text: str, plan: Plan) -> None:
    """Tell why the service has ended, on stderr and in the log."""
    is_told = plan.log_file is not None or plan.settings.log_format != TEXT
    if is_told:
        log.critical("%s", text)
    if plan.log_file is not None or not is_told:
        click.echo(f"everycore: {text}", err=True)


@contextlib.contextmanager
def _umask(mask: int | None) -> Iterator[None]:
    """Set the umask of the primary, which makes the sockets and the pid file."""
    if mask is None:
        yield
        return
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _check_still_there(old: File | None, new: File | None) -> None:
    """Raise ConfigurationError if the settings file is gone: it may be in the middle of being replaced."""
    if old is None or (new is not None and (new.label == old.label or old.label != OWN)):
        return
    raise ConfigurationError(
        OPTION, f"{old.label} no longer exists; put it back, or stop the service and start it again"
    )


def _check_same_scheme(old: Values, new: Values) -> None:
    """Raise ConfigurationError if a reload would turn HTTP into HTTPS at the same address, or the reverse."""
    before, after = (values.found.get(CERTIFICATE) for values in (old, new))
    if bool(before and before.value) != bool(after and after.value):
        source = after.source if after and after.value else old.found[CERTIFICATE].source
        change = "HTTP into HTTPS" if after and after.value else "HTTPS into HTTP"
        raise ConfigurationError(
            "--ssl-certfile",
            f"a reload cannot turn {change}; stop the service and start it again",
            source=source,
        )


class Rereading:
    """Reads the settings again when a reload is ordered, and applies them."""

    def __init__(self, plan: Plan, read: Callable[[], Plan]) -> None:
        #: The settings in force.
        self.plan = plan
        self._read = read
        self.pool: Pool

    def __call__(self) -> None:
        """Read and apply the settings. Raises ConfigurationError, and changes nothing then."""
        old, new = self.plan, self._read()
        _check_still_there(old.values.file, new.values.file)
        _check_same_scheme(old.values, new.values)
        with naming_sources(new.values):
            _configure_logs(new)
        # If the new workers can't start, a worker that runs already keeps its log file, wherever that was
        # moved.
        self.pool._keeper.reopen_logs(tells_programs=False)
        fixed = [field for field in self._changed(old, new) if field.setting.is_fixed]
        if fixed:
            what = ", ".join(f"{field.option} ({new.values.found[field.name].source})" for field in fixed)
            log.warning("a reload does not change %s; stop the service and start it again to change it", what)
        for line in new.values.ignored:
            if line not in old.values.ignored:
                log.warning("%s", line)
        # A file does not switch --reload on or off, and --reload sets its own number of workers. If the
        # number in the settings is unchanged, what TTIN and TTOU have set stays.
        is_scaled = new.workers.count != old.workers.count and new.settings.reload == old.settings.reload
        if is_scaled:
            log.info("scaling from %d to %d (%s)", self.pool.size, new.workers.count, new.workers.reason)
        worker = new.worker
        self.pool.cluster.setup_primary(exec=worker.exec, env=worker.env, cwd=worker.cwd, umask=worker.umask)
        self.pool._keeper.change_terms(
            grace=new.settings.grace,
            shutdown_timeout=new.shutdown_timeout,
            boot_timeout=new.boot_timeout,
            surge=new.settings.surge,
            stall_limits=stall_limits(**_stalls(new)),
            recycling=recycling_limits(**_recycling(new)),
            workers=new.workers.count if is_scaled else None,
        )
        self.plan = new

    @staticmethod
    def _changed(old: Plan, new: Plan) -> list[Field]:
        return [
            field
            for field in new.values.fields
            if field.name in old.values.found
            and old.values.found[field.name].value != new.values.found[field.name].value
        ]
