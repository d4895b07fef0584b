"""`--metrics` and `--min-ready`: where the observer listens, and how it is started.

Invariant: what is missing or wrong is reported before anything is bound. A service without an observer
imports nothing for it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import everycore.observer
from everycore.cli.activation import VARIABLES
from everycore.cli.options import Values, worker_count
from everycore.config.common import CommonSettings
from everycore.errors import ConfigurationError
from everycore.ops import interpreter
from everycore.servers.binds import Bind, TcpBind, UnixBind, parse_bind
from everycore.settings import Settings
from everycore.system.plain_files import why_not_written

if TYPE_CHECKING:
    from everycore.primary.observing import ObserverPlan

METRICS: Final = "--metrics"
_MIN_READY: Final = "--min-ready"
_FORMS: Final = "HOST:PORT, [V6]:PORT, PORT or unix:PATH"
#: The modules that the observer imports, and the package of each.
_NEEDS: Final = (("prometheus_client", "prometheus-client"), ("uvicorn", "uvicorn"))
_IN_ARCHIVE: Final = "import runpy; runpy.run_module('everycore.observer', run_name='__main__')"


def check_metrics(values: Values, folder: str | None, binds: Sequence[Bind] = ()) -> None:
    """Raise ConfigurationError if the observer could not work. Paths begin at `folder`.

    binds: the addresses that the workers are to listen on.
    """
    text, least = values.found["metrics"].value, values.found["min_ready"]
    if text is None:
        if least.is_explicit:
            raise ConfigurationError(_MIN_READY, f"needs {METRICS} too, the address that answers /ready")
        return
    for module, package in _NEEDS:
        if importlib.util.find_spec(module) is None:
            raise ConfigurationError(METRICS, f"needs {package}: pip install 'everycore[metrics]'")
    bind = metrics_bind(text)
    if bind in binds and not (isinstance(bind, TcpBind) and bind.port == 0):
        raise ConfigurationError(METRICS, f"names {bind}, which is the application's own address")
    if isinstance(bind, UnixBind):
        parent = os.path.dirname(os.path.join(folder or "", bind.path)) or "."
        there_is = os.path.isdir(parent)
        problem = why_not_written(parent) if there_is else f"there is no folder {parent!r}"
        if problem is not None:
            raise ConfigurationError(METRICS, f"cannot listen on {bind}: {problem}")
    workers = worker_count(values)
    if least.value > workers.count:
        problem = f"is {least.value}, more than the number of workers: {workers.count} ({workers.reason})"
        raise ConfigurationError(_MIN_READY, problem)


def metrics_bind(text: str) -> Bind:
    """The address that `--metrics` names. Raises ConfigurationError."""
    has_place = text.startswith("unix:") or text.rpartition(":")[2].isdigit()
    if not has_place or text.startswith("fd:"):
        raise ConfigurationError(METRICS, f"must be {_FORMS}, not {text!r}")
    return parse_bind(text, METRICS)


def observer_plan(
    settings: CommonSettings, worker: Settings, folder: str | None, log_file: str | None
) -> ObserverPlan:
    """How to start the observer of a service. `worker` is how its workers are started.

    Paths begin at `folder`. Raises ConfigurationError for a host that does not resolve.
    """
    from everycore.core.measures import ObserverJob  # late: a service without an observer does not need it
    from everycore.primary.observing import ObserverAddress, ObserverPlan, observer_addresses

    bind = metrics_bind(settings.metrics or "")
    if isinstance(bind, UnixBind):
        path = os.path.abspath(os.path.join(folder or "", bind.path))
        addresses: tuple[Any, ...] = (ObserverAddress(socket.AF_UNIX, path),)
    else:
        assert isinstance(bind, TcpBind)
        try:
            found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(METRICS, f"cannot listen on {bind}: {why.lower()}") from None
        addresses = observer_addresses(found)
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return ObserverPlan(
        setting=METRICS,
        addresses=addresses,
        command=tuple(interpreter.command(everycore.observer, _IN_ARCHIVE, [], flags=["-P"])),
        env={**environ, **interpreter.environment()},
        job=ObserverJob(
            min_ready=settings.min_ready,
            log_level=settings.log_level,
            log_file=log_file,
            log_format=settings.log_format,
        ),
        uid=_number(worker.uid),
        gid=_number(worker.gid),
    )


def _number(user: int | str | None) -> int | None:
    """The uid or gid: the command line has already looked up names."""
    return user if isinstance(user, int) else None
