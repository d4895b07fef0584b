"""Answers one worker's link: requests about listeners, about the program's own sockets, and its departure.

A worker waits for the answers. So a message on the link is handled before every later message on the channel.
Invariant: descriptors that came with a request are closed here unless the switchboard took them over.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from typing import Any, Final, Protocol

from everycore.aio.outbox import ENDS
from everycore.core import wire
from everycore.core.permits import INHERITED, Permits, may_read, may_set
from everycore.core.wire import LINK_NUMBER
from everycore.errors import ProtocolError
from everycore.kernel import os_error
from everycore.primary.listeners.postponed import NotYet
from everycore.primary.listeners.subscriber import Client
from everycore.primary.listeners.switchboard import Grant, Switchboard
from everycore.primary.other_user import as_listen, permitted
from everycore.primary.process import WorkerProcess
from everycore.primary.readiness import WorkerReadiness
from everycore.primary.telling import Told
from everycore.system import packets
from everycore.system.descriptors import close_all, close_now, duplicate
from everycore.system.given import copy_options
from everycore.system.sockets import off_the_wire
from everycore.system.strange import close_emptied, close_strange

#: The most requests that are answered at once, before one on the channel.
_BUDGET: Final = 16
#: How long a leaving worker may wait for an answer that does not come, in seconds.
UNTOLD: Final = 1.0
#: The most requests of one worker that are answered later. A worker has one request under way for each thread
#: that still waits.
MOST_POSTPONED: Final = 64
#: The largest socket option that is transferred, in bytes.
_LARGEST_OPTION: Final = 1024
#: Errors that a refusal can report: the kernel says no, or a value does not fit the C function, such as a
#: number that is too large, or a path in place of a host.
REFUSABLE: Final = (OSError, OverflowError, ValueError, TypeError, IndexError)

_NOT_LISTED: Final = "the worker runs as another user than the primary, and may not use this socket option"
_NOT_ITS_OWN: Final = "the worker runs as another user than the primary, which has bound this itself"

#: A reply, and the descriptors that go with it.
Reply = tuple[Any, tuple[int, ...]]


class LinkClient(Client, Protocol):
    """The driver of the worker at the other end."""

    process: WorkerProcess

    @property
    def may_serve(self) -> bool:
        """Whether the worker may get listeners: it has not been asked to leave."""

    @property
    def readiness(self) -> WorkerReadiness:
        """Whether the worker is ready, and what makes it so."""

    def on_report(self, body: bytes) -> None:
        """Deliver the worker's report of why it failed."""

    def on_leave(self) -> None:
        """Note that the worker leaves by itself."""


class LinkServer:
    """The primary's end of one link.

    permits: what the worker may listen on, if it runs as another user than the primary. None: no limit of its
    own.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        link: socket.socket,
        client: LinkClient,
        switchboard: Switchboard,
        permits: Permits | None,
    ) -> None:
        self._loop = loop
        self._link: socket.socket | None = link
        self._client = client
        self._switchboard = switchboard
        self._permits = permits
        #: The number of requests that are answered later.
        self._postponed = 0
        self._told = Told(client.id)
        #: The worker's channel or process has ended: only its last messages are read here.
        self._is_ending = False
        #: The number of the latest request that was granted, and its listener.
        self._last_grant: tuple[bytes, int] | None = None

    # --- the link -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Answer from now on."""
        if self._link is not None:
            self._loop.add_reader(self._link, self._answer_next)

    def answer_pending(self) -> None:
        """Answer what was asked here, before what came on the channel after it."""
        for _ in range(_BUDGET):
            if not self._answer_next():
                return

    def answer_last(self) -> None:
        """Read the last messages: the worker may have said that it leaves, or why it failed."""
        self._is_ending = True
        self.answer_pending()

    def close(self) -> None:
        """Stop answering."""
        if self._link is not None:
            self._loop.remove_reader(self._link)
            close_emptied(self._link)
            self._link = None

    def abandon(self) -> None:
        """In a forked child: close the child's copy, and leave the parent's loop alone."""
        if self._link is not None:
            close_now(self._link)
            self._link = None

    def fileno(self) -> int:
        """The descriptor of the link, or -1."""
        return -1 if self._link is None else self._link.fileno()

    def _answer_next(self) -> bool:
        """Answer one request, if there is one. Returns whether another one may be answered."""
        link = self._link
        if link is None:
            return False
        try:
            received = packets.receive(link)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(link)
            return False
        data, fds, is_truncated = received
        number, body = data[: LINK_NUMBER.size], data[LINK_NUMBER.size :]
        request = None
        try:
            request = wire.decode_link_request(body)
            if fds and not isinstance(request, wire.Bind):
                raise ProtocolError(f"{type(request).__name__} came with {len(fds)} descriptors")
            if self._is_ending and not isinstance(request, (wire.Leave, wire.Report)):
                return True
            if isinstance(request, wire.GiveUp):
                self._take_back_grant(number)
                return True
            return self._reply(number, *self._answer(request, fds, is_truncated=is_truncated))
        except NotYet as exc:
            return self._postpone(number, request, fds, self._loop.time() + exc.patience)
        except ProtocolError as exc:
            self._client.on_violation(ProtocolError(f"on the link: {exc}"))
            return False
        finally:
            close_strange(fds)

    def _postpone(self, number: bytes, request: Any, fds: list[int], until: float) -> bool:
        """Answer when more is known, or at `until`. Returns whether the worker may ask for more."""
        if not self._client.may_serve:
            # The answer would be the error that has ended another worker, which has reported it.
            self._loop.call_later(UNTOLD, self._client.process.signal, signal.SIGKILL)
            return True
        if self._postponed >= MOST_POSTPONED:
            self._client.on_violation(ProtocolError("it does not wait for the answers on its link"))
            return False
        try:
            kept = list(map(duplicate, fds))
        except OSError as exc:  # this process has no descriptor left
            return self._reply(number, _refusal(0, exc), ())
        self._postponed += 1

        def again(is_last: bool) -> None:
            self._postponed -= 1
            try:
                if self._link is not None and not self._is_ending:
                    self._reply(number, *self._answer(request, kept, is_last=is_last))
            except NotYet:
                self._postpone(number, request, kept, until)
            finally:
                close_strange(kept)

        self._switchboard.postponed.add(again, until)
        return True

    def _reply(self, number: bytes, reply: Any, out: tuple[int, ...]) -> bool:
        """Send an answer. Returns whether the worker may ask for more."""
        if isinstance(reply, wire.Granted):
            self._last_grant = number, reply.listener
        try:
            if self._link is not None and not self._is_ending:
                packets.send(self._link, number + wire.encode(reply), out)
        except BlockingIOError:  # the worker should read one answer at a time; these lie there unread
            self._client.on_violation(ProtocolError("it does not read the answers on its link"))
            return False
        except OSError as exc:
            if exc.errno not in ENDS:  # a worker that has ended needs no answer
                self._told.tell(f"no reply on its link: {exc.strerror}")
        finally:
            close_all(out)
        return True

    def _take_back_grant(self, number: bytes) -> None:
        if self._last_grant is not None and self._last_grant[0] == number:
            self._switchboard.decline(self._client.id, self._last_grant[1])

    # --- the answers --------------------------------------------------------------------------------------

    def _answer(
        self, request: Any, fds: list[int], *, is_truncated: bool = False, is_last: bool = False
    ) -> Reply:
        """`fds` came with the request; the rest of them is closed. Raises NotYet, unless it `is_last`."""
        client, switchboard = self._client, self._switchboard
        try:
            match request:
                case wire.Listen() | wire.Bind():
                    if is_truncated:  # this process had no descriptor left for the socket that came along
                        raise os_error(errno.EMFILE)
                    grant = self._grant(request, fds, is_last=is_last)
                    return grant.message, grant.fds
                case wire.SetOption() | wire.GetOption():
                    return self._option(request), ()
                case wire.MayConnect(address, others):
                    switchboard.postponed.check_connect(client.id, off_the_wire(address), others=others)
                case wire.Settle():
                    switchboard.read_belts(client.id)
                case wire.Release(listener):
                    if self._permits is not None:
                        raise OSError(errno.EACCES, _NOT_ITS_OWN)
                    return wire.Done(), (switchboard.take_back(client.id, listener),)
                case wire.Report(body):
                    client.on_report(body)
                case wire.StartListening():
                    switchboard.start(client.id, request, makes_ready=not client.readiness.is_held)
                case wire.HoldReady():
                    client.readiness.hold()
                case wire.ReadyNow():
                    client.readiness.announce()
                case wire.Leave():
                    client.on_leave()
        except REFUSABLE as exc:
            return _refusal(0, exc), ()
        return wire.Done(), ()

    def answer_listen(self, request: wire.Listen) -> Reply:
        """Answer a request that came on the channel."""
        try:
            grant = self._listen(request)
        except REFUSABLE as exc:
            return _refusal(request.request, exc), ()
        return grant.message, grant.fds

    def _grant(self, request: wire.Listen | wire.Bind, fds: list[int], *, is_last: bool) -> Grant:
        if not self._client.may_serve:
            if isinstance(request, wire.Bind) and self._switchboard.postponed.was_told(request.address):
                raise NotYet
            raise OSError(errno.ECANCELED, "the worker is leaving")
        if isinstance(request, wire.Listen):
            return self._listen(request)
        return self._bind(request, fds, is_last=is_last)

    def _listen(self, request: wire.Listen) -> Grant:
        if self._permits is not None:
            request = permitted(request, self._permits)
        return self._switchboard.listen(self._client, request, makes_ready=not self._client.readiness.is_held)

    def _bind(self, request: wire.Bind, fds: list[int], *, is_last: bool) -> Grant:
        """Bind the socket that came with `request`. Raises OSError; ProtocolError without exactly one."""
        if len(fds) != 1:
            raise ProtocolError(f"Bind came with {len(fds)} descriptors")
        fd = duplicate(fds[0])  # the request may have to be answered again
        try:
            given = socket.socket(fileno=fd)
        except OSError as exc:
            os.close(fd)
            raise ProtocolError(f"Bind came with a descriptor that is not a socket: {exc}") from exc
        if self._permits is None:
            return self._switchboard.bind(self._client, request, given, is_last=is_last)
        with given:
            return self._bind_own(request, given, self._permits)

    def _bind_own(self, request: wire.Bind, given: socket.socket, permits: Permits) -> Grant:
        """Bind a socket of the primary's instead: the worker shares the open file of `given`."""
        try:
            listen = permitted(as_listen(request, given), permits)
        except OSError as exc:
            self._told.tell(str(exc.strerror))  # the program only gets an errno, as from bind(2)
            raise
        grant = self._switchboard.listen(self._client, listen, makes_ready=False, is_program=True)
        copy_options(given, self._switchboard.listener_of(self._client.id, grant.message.listener), INHERITED)
        return grant

    def _option(self, request: wire.SetOption | wire.GetOption) -> Any:
        """Set or read an option of a listener that the worker holds. Raises OSError."""
        sock = self._switchboard.listener_of(self._client.id, request.listener)
        sets = isinstance(request, wire.SetOption)
        if self._permits is not None and not (may_set if sets else may_read)(request.level, request.option):
            raise OSError(errno.EPERM, _NOT_LISTED)
        if isinstance(request, wire.SetOption):
            sock.setsockopt(request.level, request.option, request.value)
            return wire.Done()
        size = min(max(request.size, 1), _LARGEST_OPTION)
        return wire.Option(sock.getsockopt(request.level, request.option, size))


def _refusal(request: int, exc: BaseException) -> wire.Refused:
    """The answer to request number `request`, which failed with one of `REFUSABLE`."""
    number, text = errno.EINVAL, str(exc)
    if isinstance(exc, OSError):
        number, text = exc.errno or number, exc.strerror or text
    # The worker may have asked for a path that is not valid text.
    return wire.Refused(request, number, text.encode(errors="backslashreplace").decode())
