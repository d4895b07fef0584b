"""The sending half of a channel: what waits to go into the socket, and who waits for it.

Invariant: a descriptor given to `put` is closed here exactly once, after it was sent or when it can't be any
more; `put` never blocks and never raises.

When frames leave. What the messages of a chunk lead to while it is read is corked and leaves in one `send` at
the chunk's end, without a later turn of the loop. Otherwise the first frame of a turn leaves at once and what
follows in the same turn is corked until it ends. A callback at the turn's end costs as much as three
messages, so only the second frame asks for it: the first one after something was read needs none. Corked
frames are sent by `_CORK_FRAMES`: on another processor the peer can begin with them while we go on. A frame
with descriptors begins a `sendmsg` of its own (`core.frames` says why).

Measured: corking the first one too costs a question and answer one more round of the event loop at each end.

Bytes that wait here are *data*, the program's own messages, whose senders are told to wait by `is_full`, or
*control*, which is never refused: `is_flooded` says when so much of it waits, or so many descriptors with it,
that its cause must be stopped.
"""

from __future__ import annotations

import array
import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from everycore.aio.waiting import Waiters, release, wait_among
from everycore.errors import ChannelClosed
from everycore.kernel import os_error
from everycore.system.descriptors import close_all

#: Descriptors that wait for a peer, at most, before what leads to them is stopped.
MOST_DESCRIPTORS: Final = 512
#: A peer that died with unread bytes gives ECONNRESET once, and EPIPE to writers: an end like any other.
ENDS: Final = (errno.ECONNRESET, errno.EPIPE)
#: Too many descriptors of this user are in flight (unix(7)), or no memory: it will pass.
_LATER: Final = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
_RETRY_AFTER: Final = 0.01
_SEND_SIZE: Final = 128 * 1024
_CORK_FRAMES: Final = 16
_CORK_SIZE: Final = 4096  # a larger one is worth a `sendmsg`
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class NoPeer:
    """In place of a socket whose other end never came to be: even one descriptor might be too many."""

    def fileno(self) -> int:
        return -1

    def setblocking(self, _: bool, /) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, *_: Any) -> NoReturn:
        raise os_error(errno.EPIPE)

    sendmsg = send

    def recvmsg(self, *_: Any) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        return b"", [], 0, None


class Outbox:
    """See the module. The socket stays the channel's; so does the rest of its life.

    `on_flood` is called when `is_flooded` changed; `on_failed`, from the loop, when the peer takes no more:
    with None if it is simply gone.
    """

    def __init__(
        self,
        sock: socket.socket | NoPeer,
        *,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        buffer_limit: int,
        on_flood: Callable[[], None],
        on_failed: Callable[[OSError | None], None],
    ) -> None:
        #: Bytes on their way into the socket, and those announced by `hold`.
        self.waiting = 0
        self.buffer_limit = buffer_limit
        self.is_flooded = False
        self.is_closed = False
        #: Somebody will send what is put: the end of a turn, or of a chunk. Who reads one sets this, and
        #: calls `end_reading` before the loop goes on.
        self.is_corked = False
        self._sock = sock
        self._loop = loop
        self._peer = peer
        self._on_flood = on_flood
        self._on_failed = on_failed

        # Frames that wait, with their descriptors and how many of their bytes are control.
        self._queue: deque[tuple[bytes, tuple[int, ...], int]] = deque()
        # The send under way: what is left of it.
        self._sending: memoryview | bytes = b""
        self._sending_fds: tuple[int, ...] = ()
        self._sending_control = 0

        self._control = 0  # control bytes that wait
        self._descriptors = 0  # those of control frames
        self._has_begun = False  # a frame left alone since the last known beginning of a turn
        self._is_blocked = False  # a writer, a timer or the end will follow: putting needs do nothing
        self._has_writer = False
        self._flush_handle: asyncio.Handle | None = None
        self._room_waiters: Waiters = deque()
        self._empty_waiters: Waiters = deque()

    @property
    def is_full(self) -> bool:
        """Whether senders of data should wait."""
        return self.waiting >= self.buffer_limit

    def put(self, frame: bytes, fds: tuple[int, ...] = (), *, is_control: bool = False) -> None:
        """Send an encoded frame, and own its descriptors. When closed, only the latter."""
        if self.is_closed:
            close_all(fds)
            return
        self.waiting += len(frame)
        if is_control:
            self._queue.append((frame, fds, len(frame)))
            self._descriptors += len(fds)
            self._count_control(len(frame))
        else:
            self._queue.append((frame, fds, 0))
        if self._is_blocked:
            return
        if self.is_corked:
            if len(self._queue) >= _CORK_FRAMES or len(frame) > _CORK_SIZE:
                self._send()
            return
        if self._has_begun:
            self.is_corked = True
            self._flush_handle = self._loop.call_soon(self._end_turn)
        self._has_begun = True
        self._send()

    def put_held(self, frame: bytes, fds: tuple[int, ...]) -> None:
        """`put` a frame whose bytes `hold` has counted."""
        self.waiting -= len(frame)
        self.put(frame, fds)

    def end_reading(self) -> None:
        """The chunk was read, in a turn of its own: send what it led to."""
        self.is_corked = self._flush_handle is not None
        self._has_begun = False
        if self._queue and not self._is_blocked:
            self._send()

    def send_now(self) -> None:
        """Do not wait for the end of the chunk, or of the turn."""
        if not self._is_blocked:
            self._send()

    def hold(self, size: int) -> None:
        """Count `size` bytes that wait elsewhere (negative: no longer) as waiting."""
        self.waiting += size
        if size < 0:
            self._wake()

    async def wait_room(self) -> None:
        """Return once it is not full; `ChannelClosed` if it ends before."""
        while self.waiting >= self.buffer_limit:
            await wait_among(self._room_waiters)
        if self.is_closed:
            raise ChannelClosed(self._peer)

    async def flush(self) -> None:
        """Return once everything posted, and everything held, is in the socket, or the channel is closed."""
        while self.waiting and not self.is_closed:
            await wait_among(self._empty_waiters)

    def _wake(self) -> None:
        if self._room_waiters and self.waiting < self.buffer_limit:
            release(self._room_waiters)
        if self._empty_waiters and not self.waiting:
            release(self._empty_waiters)

    def _end_turn(self) -> None:
        self._flush_handle = None
        self.is_corked = self._has_begun = False
        if self._queue and not self._is_blocked:
            self._send()

    def _retry(self) -> None:
        self._flush_handle = None
        self.is_corked = self._has_begun = False
        self._send()

    def _send(self) -> None:
        """Send what the socket takes; a writer, or a timer, is left behind if that is not all. Hot."""
        queue = self._queue
        try:
            while queue or self._sending:
                if not self._sending:
                    self._sending, self._sending_fds, self._sending_control = queue.popleft()
                    if self._sending_fds and self._sending_control:
                        self._descriptors -= len(self._sending_fds)
                    if queue and not queue[0][1]:
                        self._gather()
                data = self._sending
                if self._sending_fds:
                    sent = self._send_with_descriptors(data)
                else:
                    sent = self._sock.send(data, _SEND_FLAGS)
                self.waiting -= sent
                if sent < len(data):
                    self._sending = memoryview(data)[sent:]
                    continue
                self._sending = b""
                if self._sending_control:
                    self._count_control(-self._sending_control)
        except (BlockingIOError, InterruptedError):
            if not self._has_writer:
                self._is_blocked = self._has_writer = True
                self._loop.add_writer(self._sock, self._send)
        except OSError as error:
            self._send_failed(error)
        else:
            if self._is_blocked:
                self._remove_writer()
                self._is_blocked = False
        if self._room_waiters or self._empty_waiters:
            self._wake()

    def _gather(self) -> None:
        """Add the plain frames behind it to the next `sendmsg`."""
        queue = self._queue
        parts = [self._sending]
        size = len(self._sending)
        while queue and not queue[0][1] and size < _SEND_SIZE:
            frame, _, control = queue.popleft()
            parts.append(frame)
            size += len(frame)
            self._sending_control += control
        self._sending = b"".join(parts)

    def _send_with_descriptors(self, data: memoryview | bytes) -> int:
        rights = array.array("i", self._sending_fds)
        sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _SEND_FLAGS)
        # They are the peer's with the first byte, however few were sent.
        close_all(self._sending_fds)
        self._sending_fds = ()
        return sent

    def _count_control(self, size: int) -> None:
        self._control += size
        is_flooded = self._control > self.buffer_limit or self._descriptors > MOST_DESCRIPTORS
        if is_flooded is not self.is_flooded:
            self.is_flooded = is_flooded
            self._on_flood()

    def _send_failed(self, error: OSError) -> None:
        self._remove_writer()
        self._is_blocked = True
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if error.errno in _LATER:
            self._flush_handle = self._loop.call_later(_RETRY_AFTER, self._retry)
            return
        self._drop()
        self._flush_handle = self._loop.call_soon(self._on_failed, None if error.errno in ENDS else error)

    def _remove_writer(self) -> None:
        if self._has_writer:
            self._has_writer = False
            self._loop.remove_writer(self._sock)

    def abandon(self) -> None:
        """In a forked child: as `close`, but the loop is the parent's, whose registrations must stay."""
        self.is_closed = True
        self._has_writer = False
        self._drop()

    def close(self) -> None:
        """Drop what was not sent and let everybody go who waits."""
        self.is_closed = True
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._remove_writer()
        self._drop()

    def _drop(self) -> None:
        close_all(self._sending_fds)
        for _, fds, _ in self._queue:
            close_all(fds)
        self._queue.clear()
        self._sending, self._sending_fds, self._sending_control = b"", (), 0
        self.waiting = self._control = self._descriptors = 0
        self._wake()
