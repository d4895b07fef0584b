"""The primary's control socket on its event loop: the edge of `core.control`.

Accept clients, cut what they send into requests, and send what a `Desk` answers. Invariant: no client keeps
the loop or another client waiting. A client that does not read is dropped. A silent client gives its place to
the next one that connects. A client of another user is refused and closed.

Each request is answered before the next one of the same client is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from everycore.aio.subscriptions import Subscription
from everycore.core.control import (
    MOST_CLIENTS,
    MOST_UNREAD,
    ControlEvent,
    Request,
    event_line,
    read_request,
    refusal_line,
    reply_line,
)
from everycore.core.lines import LineBuffer
from everycore.errors import ControlError
from everycore.system.accepting import PAUSE, Trouble, trouble_of
from everycore.system.control_sockets import ControlListener, credentials, may_steer
from everycore.system.strange import ROOM, close_emptied, close_strange, descriptors_in

log = logging.getLogger("everycore.aio")

#: Clients accepted in one turn of the loop, at most.
_BURST: Final = 16
_CHUNK: Final = 64 * 1024
#: Seconds after which a client is dropped that reads nothing while data waits for it.
STUCK: Final = 5.0
#: Seconds that waiting clients have to get their last answer when the service ends.
_LAST_CHANCE: Final = 1.0


class Desk(Protocol):
    """The part that carries out requests."""

    async def answer(self, request: Request, tell: Callable[[ControlEvent], None]) -> object:
        """Carry out `request` and return its result. Raises ControlError."""

    def follow(self, tell: Callable[[ControlEvent], None]) -> Subscription:
        """Call `tell` with every event from now on."""

    def end(self) -> None:
        """The service ends: answer every client that waits."""


class ControlServer:
    """Serves one control socket until it is closed."""

    def __init__(self, listener: ControlListener, desk: Desk) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._desk = desk
        #: The client that has been silent longest comes first.
        self._clients: list[_Client] = []
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        #: A descriptor in reserve, so that a client can be accepted when this process has run out of them.
        self._spare = _spare()
        self._loop.add_reader(listener.sock.fileno(), self._accept)
        os.register_at_fork(after_in_child=partial(_abandon, weakref.ref(self)))

    async def close(self) -> None:
        """Accept no more clients. Those that wait have a moment left to get their answer."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.sock.fileno())
        self._listener.close()
        try:
            self._desk.end()
            tasks = [client.task for client in self._clients if client.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=_LAST_CHANCE)
        finally:
            for client in tuple(self._clients):
                client.close()
            self._drop_spare()

    def abandon(self) -> None:
        """In a forked child, close our copies. The parent's loop is not touched."""
        if not self._is_closed:
            self._is_closed = True
            self._listener.abandon()
            for client in self._clients:
                client.sock.close()
            self._drop_spare()

    # --- accepting ----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                sock = self._listener.sock.accept()[0]
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if trouble_of(error) is Trouble.CONNECTION or self._drop_spare():
                    continue
                self._rest()
                return
            if self._spare < 0:
                self._spare = _spare()
            self._admit(sock)

    def _rest(self) -> None:
        fd = self._listener.sock.fileno()
        self._loop.remove_reader(fd)
        self._pause = self._loop.call_later(PAUSE, self._loop.add_reader, fd, self._accept)

    def _drop_spare(self) -> bool:
        fd, self._spare = self._spare, -1
        if fd >= 0:
            os.close(fd)
        return fd >= 0

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            peer = credentials(sock)
        except OSError:
            sock.close()
            return
        if not may_steer(peer):
            _turn_away(sock, ControlError("forbidden", f"uid {peer.uid} may not control this service"))
            return
        if len(self._clients) >= MOST_CLIENTS and not self._make_room():
            _turn_away(sock, ControlError("busy", f"{MOST_CLIENTS} clients are waiting; try again later"))
            return
        self._clients.append(_Client(self._loop, sock, self._desk, self._forget, self._note))

    def _make_room(self) -> bool:
        """Drop the client that has been silent longest. Return False if every client waits for an answer."""
        gone = [client for client in self._clients if client.is_gone]
        silent = [client for client in self._clients if client.task is None][:1]
        for client in gone or silent:
            client.close()
        return bool(gone or silent)

    def _note(self, client: _Client) -> None:
        """`client` has just made a request."""
        self._clients.remove(client)
        self._clients.append(client)

    def _forget(self, client: _Client) -> None:
        self._clients.remove(client)
        if self._spare < 0 and not self._is_closed:
            self._spare = _spare()


class _Client:
    """One client."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        desk: Desk,
        on_closed: Callable[[_Client], None],
        on_request: Callable[[_Client], None],
    ) -> None:
        self.sock = sock
        #: The task that carries out the current request, if there is one.
        self.task: asyncio.Task[None] | None = None
        #: It will send nothing more, but may still read.
        self._is_half_closed = False
        self._loop = loop
        self._desk = desk
        self._on_closed = on_closed
        self._on_request = on_request
        self._lines = LineBuffer()
        self._unsent = bytearray()
        self._is_last = False
        self._is_closed = False
        self._stuck: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._read)

    def close(self) -> None:
        """Close the connection. What the client has ordered is still done."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self.sock.fileno())
        self._loop.remove_writer(self.sock.fileno())
        if self._stuck is not None:
            self._stuck.cancel()
        if self.task is not None:
            self.task.cancel()
        close_emptied(self.sock)
        self._on_closed(self)

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its end. It is not read from while it waits, so this polls."""
        poller = select.poll()
        poller.register(self.sock.fileno(), 0)
        return bool(poller.poll(0))

    # --- requests -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self.sock.recvmsg(_CHUNK, ROOM, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        close_strange(descriptors_in(ancillary))
        if data:
            self._lines.feed(data)
        else:
            self._is_half_closed = True
        self._go_on()

    def _go_on(self) -> None:
        """Begin the next request. Called when none is under way; nothing is read until it is answered."""
        self._loop.remove_reader(self.sock.fileno())
        try:
            line = self._lines.line()
            if line is not None:
                request = read_request(line)
                self._on_request(self)
                self.task = self._loop.create_task(self._serve(request))
                return
        except ControlError as error:
            self._is_last = True  # where its next request begins is unknown
            self._send(refusal_line(error))
            return
        if self._is_half_closed:
            self._is_last = True
            self._send(b"")
        else:
            self._loop.add_reader(self.sock.fileno(), self._read)

    async def _serve(self, request: Request) -> None:
        following = self._desk.follow(self._tell) if request.follow else None
        try:
            line = reply_line(await self._desk.answer(request, self._tell))
        except ControlError as error:
            line = refusal_line(error)
        except Exception:
            log.exception("a request on the control socket failed: %r", request)
            line = refusal_line(ControlError("internal", "the service failed to answer; see its log"))
        finally:
            if following is not None:
                following.cancel()
        self.task = None
        self._send(line)
        if not self._is_closed:
            self._go_on()

    # --- answers ------------------------------------------------------------------------------------------

    def _tell(self, event: ControlEvent) -> None:
        self._send(event_line(event))

    def _send(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._unsent += data
        self._push()

    def _push(self) -> None:
        """Send as much as the socket takes. A client that reads too little is dropped."""
        before = len(self._unsent)
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                while self._unsent:
                    del self._unsent[: self.sock.send(self._unsent)]
            except ConnectionError:
                self.close()
                return
        if len(self._unsent) > MOST_UNREAD:
            log.debug("a client of the control socket does not read: dropped")
            self.close()
            return
        self._watch_progress(made=len(self._unsent) < before)
        if not self._unsent and self._is_last:
            self.close()

    def _watch_progress(self, *, made: bool) -> None:
        if self._stuck is not None and (made or not self._unsent):
            self._stuck.cancel()
            self._stuck = None
        if not self._unsent:
            self._loop.remove_writer(self.sock.fileno())
        elif self._stuck is None:
            self._stuck = self._loop.call_later(STUCK, self.close)
            self._loop.add_writer(self.sock.fileno(), self._push)


class Attended(Protocol):
    """A client that is answered on a socket of this process."""

    def close(self) -> None:
        """Close the connection."""


def attend(sock: socket.socket, desk: Desk, *, on_closed: Callable[[], None]) -> Attended:
    """Answer the other end of a socket pair as a client is answered. The result owns `sock`."""
    loop = asyncio.get_running_loop()
    return _Client(loop, sock, desk, lambda _: on_closed(), lambda _: None)


def _turn_away(sock: socket.socket, error: ControlError) -> None:
    with contextlib.suppress(OSError):
        sock.send(refusal_line(error))
    close_emptied(sock)


def _spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _abandon(reference: weakref.ref[ControlServer]) -> None:
    server = reference()
    if server is not None:
        server.abandon()
