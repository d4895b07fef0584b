"""Asks and steers a running service: what `everycore status` and the like are made of.

    import everycore.control

    with everycore.control.connect("shop") as service:
        print(service.status().size)
        service.reload()

Calls wait: in an event loop they belong into a thread. One `RunningService` is for one thread at a time.
Invariant: nothing is asked of a service before it is known to be one of this user's, or of root.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final, Self, TypeVar

import msgspec
from msgspec.structs import replace

from everycore.core import control as protocol
from everycore.core.control import (
    VERSION,
    ControlEvent,
    DrainResult,
    EventsResult,
    ListenerStatus,
    MoldStatus,
    ReloadResult,
    ReloadStatus,
    ScaleResult,
    ServiceName,
    ServiceStatus,
    SlotStatus,
    StacksOf,
    StacksResult,
    WorkerStatus,
)
from everycore.core.lines import LineBuffer
from everycore.errors import ControlError
from everycore.system.control_sockets import (
    ControlAddress,
    candidates,
    connect_to,
    credentials,
    folder_of,
    remove_dead,
)
from everycore.system.memory import proportional_bytes

__all__ = [
    "ControlError",
    "ControlEvent",
    "DrainResult",
    "ListenerStatus",
    "MoldStatus",
    "ReloadResult",
    "ReloadStatus",
    "RunningService",
    "ScaleResult",
    "ServiceName",
    "ServiceStatus",
    "SlotStatus",
    "StacksOf",
    "WorkerStatus",
    "connect",
    "services",
]

T = TypeVar("T")
#: Seconds that a service has to answer a question.
TIMEOUT: Final = 10.0
#: Seconds that each service has to say its name.
NAME_TIMEOUT: Final = 2.0
#: Bytes of one line of a service at most: a status of a thousand workers is far below.
_MOST_LINE: Final = 16 * 1024 * 1024
_CHUNK: Final = 64 * 1024
#: Seconds that a call of the system waits at most: it has no room for more than some years.
_LONGEST: Final = 1e6


def connect(
    name: str | None = None,
    *,
    pid: int | None = None,
    path: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
) -> RunningService:
    """A connection to the one service of this user that has that name, and that primary's pid.

    path: of its control socket, where `--control` named one; nothing is searched then. timeout: seconds that
    it has to answer a question. Without name and pid: the only service there is.

    Raises: ControlError: `no_service`, `several`, `no_answer`, or `forbidden`.
    """
    if path is not None:
        return _at_path(os.path.abspath(os.fspath(path)), name, pid, timeout)
    found, silent = _search(pid, timeout)
    chosen = [service for service in found if name is None or service.name.name == name]
    for service in found:
        if service not in chosen or len(chosen) > 1:
            service.close()
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        there = ", ".join(f"{one.name.name} (pid {one.name.pid})" for one in chosen)
        names = {one.name.name for one in chosen}
        choice = "--name or --pid picks one" if len(names) == len(chosen) else "--pid picks one"
        raise ControlError("several", f"several services run here: {there}; {choice}")
    if silent:
        raise ControlError("no_answer", f"a service does not answer: {', '.join(map(str, silent))}")
    raise ControlError("no_service", _nothing(name, pid, found))


def services(*, timeout: float = NAME_TIMEOUT) -> list[ServiceName]:
    """The services of this user that run here and answer within that many seconds each."""
    found, _ = _search(None, timeout)
    for service in found:
        service.close()
    return [service.name for service in found]


def _nothing(name: str | None, pid: int | None, found: list[RunningService]) -> str:
    words = [] if name is None else [f"named {name!r}"]
    words += [] if pid is None else [f"with the pid {pid}"]
    others = ", ".join(f"{one.name.name} (pid {one.name.pid})" for one in found)
    where = folder_of(os.environ, os.geteuid())
    text = " ".join(["no service", *words, f"of uid {os.geteuid()} answers here"])
    if others:
        return f"{text}; there is {others}"
    return f"{text} ({'' if where is None else f'in {where}, or '}by an abstract name)"


def _search(pid: int | None, timeout: float) -> tuple[list[RunningService], list[ControlAddress]]:
    """Who answers, with its name known; and who does not."""
    found: list[RunningService] = []
    silent: list[ControlAddress] = []
    for address in candidates(folder_of(os.environ, os.geteuid())):
        if pid is not None and not _may_be(address, pid):
            continue
        try:
            service = RunningService(connect_to(address, NAME_TIMEOUT), address, timeout)
        except ConnectionRefusedError:
            if not address.is_abstract:
                remove_dead(address)
            continue
        except TimeoutError:
            silent.append(address)
            continue
        except OSError:  # it has just gone; or somebody else has taken the name
            continue
        try:
            service._learn_name(min(timeout, NAME_TIMEOUT))
        except ControlError as error:
            service.close()
            if error.kind == "no_answer":
                silent.append(address)
            continue
        found.append(service)
    return found, silent


def _may_be(address: ControlAddress, pid: int) -> bool:
    return address.pid == pid if address.is_abstract else address.name.endswith(f".{pid}.sock")


def _at_path(path: str, name: str | None, pid: int | None, timeout: float) -> RunningService:
    address = ControlAddress(path)
    try:
        service = RunningService(connect_to(address, timeout), address, timeout)
    except TimeoutError:
        raise ControlError("no_answer", f"the service at {path!r} does not answer") from None
    except (ConnectionRefusedError, FileNotFoundError):
        raise ControlError("no_service", f"no service listens at {path!r}") from None
    except OSError as error:
        raise ControlError("forbidden", f"cannot ask at {path!r}: {error.strerror or error}") from None
    try:
        service._learn_name(timeout)
        if (name or service.name.name, pid or service.name.pid) != (service.name.name, service.name.pid):
            there = f"{service.name.name} (pid {service.name.pid})"
            raise ControlError("no_service", f"the service at {path!r} is {there}")
    except BaseException:
        service.close()
        raise
    return service


class RunningService:
    """A connection to a running service. Made by `connect`; `with` closes it.

    Questions raise ControlError after the timeout of the connection (`no_answer`). Orders wait for their
    result: for as long as it takes, or `timeout` seconds; to give up waiting takes nothing back. on_event: is
    called with each event that happens meanwhile. Whoever gives up waiting, or is raised out of it, has to
    connect again.
    """

    def __init__(self, sock: socket.socket, address: ControlAddress, timeout: float) -> None:
        self._sock = sock
        self._address = address
        self._timeout = timeout
        self._lines = LineBuffer(_MOST_LINE)
        self._peer = credentials(sock).pid
        #: Which service it is.
        self.name: ServiceName

    def __repr__(self) -> str:
        return f"<RunningService {self.name.name} pid={self.name.pid} at {self._address}>"

    def close(self) -> None:
        """Close the connection. The service goes on."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- questions ----------------------------------------------------------------------------------------

    def status(self) -> ServiceStatus:
        """The service at this moment. No worker is asked, so it is answered while all are blocked."""
        found = self._ask(protocol.AskStatus(v=VERSION), ServiceStatus)
        return _with_shares(found) if self._peer == found.pid else found  # else its pids are not ours

    def events(self) -> list[ControlEvent]:
        """The events that the service remembers, the oldest first."""
        return list(self._ask(protocol.AskEvents(v=VERSION), EventsResult).events)

    def follow(self) -> Iterator[ControlEvent]:
        """The events that the service remembers, and all later ones as they happen, until its end.

        The connection is closed when the iteration ends, or is left.
        """
        try:
            self._send(protocol.AskEvents(v=VERSION, follow=True), None)
            while (answer := self._receive(None)).event is not None:
                yield answer.event
            if answer.error is not None:
                raise ControlError(answer.error.kind, answer.error.text)
        except ControlError as error:
            if error.kind != "gone":
                raise
        finally:
            self.close()

    def stacks(self, worker: int | None = None) -> list[StacksOf]:
        """Let the worker of that id, or all, print the stacks of their threads to their standard error."""
        return list(self._ask(protocol.AskStacks(v=VERSION, worker=worker), StacksResult).workers)

    # --- orders -------------------------------------------------------------------------------------------

    def reload(
        self, *, timeout: float | None = None, on_event: Callable[[ControlEvent], object] | None = None
    ) -> ReloadResult:
        """Replace all workers; returns when all are new. ControlError (`failed`) if they cannot be."""
        request = protocol.OrderReload(v=VERSION, follow=on_event is not None)
        return self._order(request, ReloadResult, timeout, on_event)

    def scale(
        self,
        to: int | None = None,
        *,
        by: int | None = None,
        timeout: float | None = None,
        on_event: Callable[[ControlEvent], object] | None = None,
    ) -> ScaleResult:
        """So many workers, or so many more; returns when they are ready, and those too many have left."""
        request = protocol.OrderScale(v=VERSION, to=to, by=by, follow=on_event is not None)
        return self._order(request, ScaleResult, timeout, on_event)

    def drain(
        self,
        worker: int,
        *,
        timeout: float | None = None,
        on_event: Callable[[ControlEvent], object] | None = None,
    ) -> DrainResult:
        """Let that worker finish its work and leave; returns when it is gone. Its slot is filled again."""
        request = protocol.OrderDrain(v=VERSION, worker=worker, follow=on_event is not None)
        return self._order(request, DrainResult, timeout, on_event)

    def stop(
        self, *, timeout: float | None = None, on_event: Callable[[ControlEvent], object] | None = None
    ) -> None:
        """Stop the service, as SIGTERM does; returns when its workers are gone, and a command's process."""
        pidfd = self._watch()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            try:
                request = protocol.OrderStop(v=VERSION, follow=on_event is not None)
                self._order(request, None, timeout, on_event)
            except ControlError as error:
                if error.kind != "gone":  # it was ended at once
                    raise
            if pidfd is not None and self.name.kind != "program":
                poller = select.poll()
                poller.register(pidfd, select.POLLIN)
                left = (
                    None if deadline is None else min(max(deadline - time.monotonic(), 0.0), _LONGEST) * 1000
                )
                if not poller.poll(left):
                    raise self._no_answer("its process does not end")
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def _watch(self) -> int | None:
        """What tells the end of its process; None where it is in another pid namespace."""
        with contextlib.suppress(OSError):
            return os.pidfd_open(self._peer) if self._peer > 0 else None
        return None

    # --- the protocol -------------------------------------------------------------------------------------

    def _learn_name(self, timeout: float) -> None:
        self.name = self._order(protocol.AskHello(v=VERSION), ServiceName, timeout, None)

    def _ask(self, request: protocol.Request, kind: type[T]) -> T:
        return self._order(request, kind, self._timeout, None)

    def _order(
        self,
        request: protocol.Request,
        kind: type[T] | None,
        timeout: float | None,
        on_event: Callable[[ControlEvent], object] | None,
    ) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._send(request, deadline)
            while (answer := self._receive(deadline)).event is not None:
                if on_event is not None:
                    on_event(answer.event)
        except BaseException:
            self.close()  # the answer that comes late would be taken for that of the next request
            raise
        if answer.error is not None or not answer.ok:
            problem = answer.error or protocol.Problem("failed", "the service does not say why")
            raise ControlError(problem.kind, problem.text)
        return self._read(answer.result, kind)

    @staticmethod
    def _read(result: msgspec.Raw, kind: type[T] | None) -> T:
        try:
            return msgspec.json.decode(result, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ControlError(
                "bad_answer", f"the service says what this tool cannot read: {error}"
            ) from None

    def _send(self, request: protocol.Request, deadline: float | None) -> None:
        self._limit(deadline)
        try:
            self._sock.sendall(protocol.request_line(request))
        except TimeoutError:
            raise self._no_answer() from None
        except ConnectionError:
            pass  # why, it may have said before
        except OSError:
            raise ControlError("gone", "the connection is closed") from None

    def _receive(self, deadline: float | None) -> protocol.ControlAnswer:
        while (line := self._lines.line()) is None:
            self._limit(deadline)
            try:
                data = self._sock.recv(_CHUNK)
            except TimeoutError:
                raise self._no_answer() from None
            except OSError:
                data = b""
            if not data:
                raise ControlError("gone", "the service has ended, or has closed the connection")
            self._lines.feed(data)
        return protocol.read_answer(line)

    def _limit(self, deadline: float | None) -> None:
        """What is left of the time is that of the next call."""
        if deadline is None:
            limit = None
        elif (limit := deadline - time.monotonic()) <= 0:
            raise self._no_answer()
        with contextlib.suppress(OSError):
            self._sock.settimeout(None if limit is None else min(limit, _LONGEST))

    def _no_answer(self, what: str = "it does not answer") -> ControlError:
        return ControlError("no_answer", f"{what} in time: {self._address}")


def _with_shares(status: ServiceStatus) -> ServiceStatus:
    """The same, with the proportional memory of each worker: who asks looks, and the service does not."""
    workers = (replace(one, pss=one.pid and proportional_bytes(one.pid)) for one in status.workers)
    return replace(status, workers=tuple(workers))
