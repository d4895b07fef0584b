"""The control socket of a pool, open from before its first worker until after its last.

Invariant: without a plan there is no socket. A default place may be missing, read-only or taken: that is
logged at DEBUG level, and is never an error. A place that the user has named has to work.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from everycore.aio.shutdown import Shutdown
from everycore.errors import ConfigurationError
from everycore.primary.cluster import Cluster
from everycore.primary.keeper import Keeper
from everycore.system import control_sockets

if TYPE_CHECKING:
    from everycore.aio.control import ControlServer
    from everycore.primary.observing import ObserverPost

log = logging.getLogger("everycore.primary")

_REASONS: Final = {
    errno.EADDRINUSE: "another service listens there, or it is a file of another kind",
    errno.EROFS: "it is on a read-only file system",
    errno.ENOENT: "there is no such folder",
    errno.EACCES: "this user has no permission",
    errno.EPERM: "this user has no permission",
}


class ControlPlan(msgspec.Struct, frozen=True):
    """A service's name, and where it may be asked. path: None stands for the default place.

    setting: the name of the setting that gives the path. by_signal: `stop` acts like SIGTERM, with all that
    the command does then. stacks_file: where workers print their stacks now; None stands for their stderr.
    listens: False for no socket, because only the observer asks.
    """

    name: str
    kind: str = "program"
    path: str | None = None
    setting: str = "control"
    by_signal: bool = False
    stacks_file: Callable[[], str | None] = lambda: None
    listens: bool = True


def plan_of(control: bool | str | os.PathLike[str]) -> ControlPlan | None:
    """The plan of a program's own pool. Raises ConfigurationError."""
    if control is False:
        return None
    name = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    if control is True:
        return ControlPlan(name)
    path = control if isinstance(control, str) else getattr(control, "__fspath__", lambda: None)()
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigurationError("control", f"must be True, False or a path, not {control!r}")
    return ControlPlan(name, path=os.path.abspath(path))


class ControlPost:
    """The control socket and the observer of one pool. Either may be absent."""

    def __init__(self, plan: ControlPlan | None) -> None:
        self.plan = plan
        self._listener: control_sockets.ControlListener | None = None
        self._server: ControlServer | None = None
        self._kept: set[int] = set()
        #: Answers for metrics and health; None without an observer.
        self.observer: ObserverPost | None = None

    async def enter(self, cluster: Cluster) -> None:
        """Make the socket, then enter the cluster. Raises ConfigurationError for the socket's path."""
        self.open()
        try:
            if self.observer is not None:
                self.observer.open(cluster)
            await cluster.__aenter__()
            if self.observer is not None:
                self.observer.entered(cluster)
        except BaseException:
            await self.close()
            raise

    async def leave(self, keeper: Keeper) -> None:
        """Close the keeper, and then the socket: waiting clients are told how the service ended."""
        try:
            await keeper.close()
        finally:
            await self.close()

    def open(self) -> None:
        """Make the socket, without answering yet. Raises ConfigurationError for a path that cannot work."""
        if self.plan is not None and self.plan.listens:
            self._listener = _listen(self.plan)

    def begin(self, cluster: Cluster, keeper: Keeper, shutdown: Shutdown | None) -> None:
        """Answer from now on. shutdown: stops the whole service, as a signal does.

        Call this once the first workers are started: they boot while this imports what it needs.
        """
        if self.plan is None or (self._listener is None and self.observer is None):
            return
        try:
            from everycore.aio.control import ControlServer  # imported late: only for pools with a socket
            from everycore.core.control import ServiceName
            from everycore.primary.steering import Steering
        except (OSError, ImportError) as error:  # no descriptor is left to read them
            log.debug("there is no control socket: %s", error)
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            return

        plan = self.plan
        stop = keeper.stop if shutdown is None or not plan.by_signal else shutdown.order
        name = ServiceName(name=_text(plan.name), kind=plan.kind, pid=os.getpid(), version=_version())
        steering = Steering(cluster, keeper, name, stop, plan.stacks_file)
        if self.observer is not None:
            self.observer.begin(cluster, steering)
        if self._listener is None:
            return
        self._kept = cluster._runtime.kept
        self._kept.add(self._listener.sock.fileno())
        self._server = ControlServer(self._listener, steering)
        log.debug("control socket: %s", self._listener.address)

    async def close(self) -> None:
        """Stop answering, and remove the socket."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._kept.discard(listener.sock.fileno())
        if self.observer is not None:
            await self.observer.close()
        if self._server is not None:
            await self._server.close()
        elif listener is not None:
            listener.close()


def _listen(plan: ControlPlan) -> control_sockets.ControlListener | None:
    if plan.path is not None:
        try:
            return control_sockets.listen_at(plan.path)
        except OSError as error:
            why = _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
            raise ConfigurationError(plan.setting, f"cannot make {plan.path!r}: {why}") from None
    uid, pid = os.geteuid(), os.getpid()
    folder = control_sockets.folder_of(os.environ, uid)
    reason: object = "there is no XDG_RUNTIME_DIR"
    if folder is not None:
        try:
            return control_sockets.listen_in(folder, plan.name, pid)
        except OSError as error:
            reason = error
    try:
        return control_sockets.listen_abstract(uid, pid)
    except OSError as error:
        log.debug("there is no control socket: %s; %s", reason, error)
        return None


def _text(name: str) -> str:
    """Return `name` as UTF-8: it may contain a path that is not."""
    return name.encode("utf-8", "backslashreplace").decode()


def _version() -> str:
    """The version, from the folder that an installer has made or, without one, from the metadata."""
    for folder in sys.path:
        with contextlib.suppress(OSError, TypeError, ValueError):
            for name in os.listdir(folder or "."):
                if name.startswith("everycore-") and name.endswith(".dist-info"):
                    return name.removeprefix("everycore-").removesuffix(".dist-info")
    try:
        from importlib.metadata import version  # imported late: 35 modules

        return version("everycore")
    except Exception:  # no metadata in a zip, or no descriptor left
        return "unknown"
