"""The sending half of a channel: what waits to go into the socket, and who waits for it.

Invariant: a descriptor given to `put` is closed here exactly once, after it was sent or when it can't be
any more; `put` never blocks and never raises. Imports nothing of `primary` or `worker`.

The first frame of a turn of the loop leaves at once; what follows in the same turn is corked and leaves in
one `sendmsg` when the turn ends, except that a frame with descriptors begins a new one (`core.frames` says
why). (Measured: corking the first one too costs a question and answer one more round of the event loop at
each end.)

Bytes that wait here are *data*, the program's own messages, whose senders are told to wait by `is_full`, or
*control*, which is never refused: `is_flooded` says when so much of it waits that its cause must be stopped.
"""

from __future__ import annotations

import array
import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from everycore.errors import ChannelClosed
from everycore.system.descriptors import close_all

#: A peer that died with unread bytes gives ECONNRESET once, and EPIPE to writers: an end like any other.
ENDS: Final = (errno.ECONNRESET, errno.EPIPE)
#: Too many descriptors of this user are in flight (unix(7)), or no memory: it will pass.
_LATER: Final = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
_RETRY_AFTER: Final = 0.01
_SEND_SIZE: Final = 128 * 1024
_CORK_LIMIT: Final = 64 * 1024  # more than that is sent at once: the peer can begin while we go on
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Outbox:
    """See the module. The socket stays the channel's; so does the rest of its life.

    `on_flood` is called when `is_flooded` changed; `on_failed`, from the loop, when the peer takes no more:
    with None if it is simply gone.
    """

    def __init__(
        self,
        sock: socket.socket,
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
        self._corked = 0  # bytes put since the last attempt to send
        self._is_blocked = False  # a writer, a timer or the end will follow: putting needs do nothing
        self._has_writer = False
        self._flush_handle: asyncio.Handle | None = None
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._empty_waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether senders of data should wait."""
        return self.waiting >= self.buffer_limit

    def put(self, frame: bytes, fds: tuple[int, ...] = (), *, is_control: bool = False) -> None:
        """Send an encoded frame, and own its descriptors. When closed, only the latter."""
        if self.is_closed:
            close_all(fds)
            return
        size = len(frame)
        self.waiting += size
        self._corked += size
        if is_control:
            self._queue.append((frame, fds, size))
            self._count_control(size)
        else:
            self._queue.append((frame, fds, 0))
        if self._is_blocked:
            return
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush_soon)
            self._send()
        elif self._corked > _CORK_LIMIT:
            self._send()

    def hold(self, size: int) -> None:
        """Count `size` bytes that wait elsewhere (negative: no longer) as waiting."""
        self.waiting += size
        if size < 0:
            self._wake()

    async def wait_room(self) -> None:
        """Return once it is not full; `ChannelClosed` if it ends before."""
        while self.waiting >= self.buffer_limit:
            await self._wait(self._room_waiters)
        if self.is_closed:
            raise ChannelClosed(self._peer)

    async def flush(self) -> None:
        """Return once everything posted, and everything held, is in the socket, or the channel is closed."""
        while self.waiting and not self.is_closed:
            await self._wait(self._empty_waiters)

    async def _wait(self, waiters: deque[asyncio.Future[None]]) -> None:
        waiter = self._loop.create_future()
        waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    def _wake(self) -> None:
        if self._room_waiters and self.waiting < self.buffer_limit:
            _release(self._room_waiters)
        if self._empty_waiters and not self.waiting:
            _release(self._empty_waiters)

    def _flush_soon(self) -> None:
        self._flush_handle = None
        if not self._has_writer:
            self._send()

    def _send(self) -> None:
        """Send what the socket takes; a writer, or a timer, is left behind if that is not all."""
        self._corked = 0
        try:
            while self._sending or self._queue:
                if not self._sending:
                    self._next_send()
                self._send_once()
        except (BlockingIOError, InterruptedError):
            if not self._has_writer:
                self._is_blocked = self._has_writer = True
                self._loop.add_writer(self._sock, self._send)
        except OSError as error:
            self._send_failed(error)
        else:
            self._remove_writer()
            self._is_blocked = False
        self._wake()

    def _next_send(self) -> None:
        """Gather the next `sendmsg`: one frame, and plain frames behind it."""
        queue = self._queue
        frame, fds, control = queue.popleft()
        if queue and not queue[0][1]:
            parts, size = [frame], len(frame)
            while queue and not queue[0][1] and size < _SEND_SIZE:
                frame, _, more = queue.popleft()
                parts.append(frame)
                size += len(frame)
                control += more
            frame = b"".join(parts)
        self._sending, self._sending_fds, self._sending_control = frame, fds, control

    def _send_once(self) -> None:
        data = self._sending
        if self._sending_fds:
            rights = array.array("i", self._sending_fds)
            sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _SEND_FLAGS)
            # They are the peer's with the first byte, however few were sent.
            close_all(self._sending_fds)
            self._sending_fds = ()
        else:
            sent = self._sock.send(data, _SEND_FLAGS)
        self.waiting -= sent
        if sent < len(data):
            self._sending = memoryview(data)[sent:]
            return
        self._sending = b""
        if self._sending_control:
            self._count_control(-self._sending_control)

    def _count_control(self, size: int) -> None:
        self._control += size
        is_flooded = self._control > self.buffer_limit
        if is_flooded is not self.is_flooded:
            self.is_flooded = is_flooded
            self._on_flood()

    def _send_failed(self, error: OSError) -> None:
        self._remove_writer()
        self._is_blocked = True
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if error.errno in _LATER:
            self._flush_handle = self._loop.call_later(_RETRY_AFTER, self._flush_soon)
            return
        self._drop()
        self._flush_handle = self._loop.call_soon(self._on_failed, None if error.errno in ENDS else error)

    def _remove_writer(self) -> None:
        if self._has_writer:
            self._has_writer = False
            self._loop.remove_writer(self._sock)

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
        self.waiting = self._control = self._corked = 0
        self._wake()


def _release(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
