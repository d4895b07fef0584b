"""The control socket of a primary, as its loop serves it: the edge of `core.control`.

Accept clients, cut what they send into requests, and send what a `Desk` answers. Invariant: no client keeps
the loop, nor another client, waiting: one that does not read is dropped, one that says nothing gives its
place to the next one that comes, and one of another user is told so and closed.

A request is answered before the next one of that client is read.
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
    LineBuffer,
    Request,
    event_line,
    read_request,
    refusal_line,
    reply_line,
)
from everycore.errors import ControlError
from everycore.system.accepting import PAUSE, Trouble, trouble_of
from everycore.system.control_sockets import ControlListener, credentials, may_steer
from everycore.system.strange import ROOM, close_emptied, close_strange, descriptors_in

log = logging.getLogger("everycore.aio")

#: Clients that are accepted before the loop turns.
_BURST: Final = 16
_CHUNK: Final = 64 * 1024
#: A client that has read nothing for so many seconds, while something waits for it, is dropped.
STUCK: Final = 5.0
#: What those who wait for something have for their last answer, when the service ends, in seconds.
_LAST_CHANCE: Final = 1.0


class Desk(Protocol):
    """Who does what is asked."""

    async def answer(self, request: Request, tell: Callable[[ControlEvent], None]) -> object:
        """Do it, and return the result. Raises ControlError."""

    def follow(self, tell: Callable[[ControlEvent], None]) -> Subscription:
        """Tell of every event from now on."""

    def end(self) -> None:
        """The service ends: whoever waits is answered."""


class ControlServer:
    """Serves one control socket until it is closed."""

    def __init__(self, listener: ControlListener, desk: Desk) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._desk = desk
        #: The one that has been silent for longest comes first.
        self._clients: list[_Client] = []
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        #: Kept back, so that a client can be accepted when this process is out of descriptors.
        self._spare = _spare()
        self._loop.add_reader(listener.sock.fileno(), self._accept)
        os.register_at_fork(after_in_child=partial(_abandon, weakref.ref(self)))

    async def close(self) -> None:
        """Accept nobody any more; whoever waits has a moment for the answer."""
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
        """In a forked child: close our copies. The loop is the parent's, and not touched."""
        if not self._is_closed:
            self._is_closed = True
            self._listener.abandon()
            for client in self._clients:
                client.sock.close()
            self._drop_spare()

    # --- who comes ----------------------------------------------------------------------------------------

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
            _turn_away(sock, ControlError("forbidden", f"this service is not one of uid {peer.uid}"))
            return
        if len(self._clients) >= MOST_CLIENTS and not self._make_room():
            _turn_away(sock, ControlError("busy", f"{MOST_CLIENTS} clients are being answered; come again"))
            return
        self._clients.append(_Client(self._loop, sock, self._desk, self._forget, self._note))

    def _make_room(self) -> bool:
        """Drop the client that has been silent for longest; False: all of them wait for something."""
        gone = [client for client in self._clients if client.is_gone]
        silent = [client for client in self._clients if client.task is None][:1]
        for client in gone or silent:
            client.close()
        return bool(gone or silent)

    def _note(self, client: _Client) -> None:
        """It has just asked for something."""
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
        #: What it has asked for, while that is being done.
        self.task: asyncio.Task[None] | None = None
        #: It will send nothing any more; it may still read.
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
        """Let go of it. What it has ordered is done all the same."""
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
        """Whether it has closed its end: nobody looks while it waits for an answer."""
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
        """The next request, once nothing is under way. Nothing is read meanwhile."""
        self._loop.remove_reader(self.sock.fileno())
        try:
            line = self._lines.line()
            if line is not None:
                request = read_request(line)
                self._on_request(self)
                self.task = self._loop.create_task(self._serve(request))
                return
        except ControlError as error:
            self._is_last = True  # where its next request begins, nobody knows
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
            line = refusal_line(ControlError("internal", "the service has a fault; its log says which"))
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
        """Send what there is room for. One who reads too little is dropped."""
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
    """One who is answered on a socket of ours."""

    def close(self) -> None:
        """Let go of it."""


def attend(sock: socket.socket, desk: Desk, *, on_closed: Callable[[], None]) -> Attended:
    """Answer whoever has the other end of a socket pair, as a client is answered; owns the socket."""
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
