"""The sending half of a channel: the frames that wait to go into the socket, and the senders that wait.

Invariant: a descriptor given to `put` is closed here exactly once, after it was sent or once it can't be
sent any more. `put` never blocks and never raises.

When frames leave:

* Frames that result from a chunk while it is read are corked. They leave in one `send` at the chunk's end,
  without a later turn of the loop.
* Otherwise the first frame of a turn leaves at once. Later frames of the turn are corked until it ends.
* A callback at the turn's end costs as much as three messages. Only the second frame schedules it: the first
  one after a read needs none.
* Corked frames are sent `_CORK_FRAMES` at a time: the peer, on another processor, can begin with them while
  this side goes on.
* A frame with descriptors begins a `sendmsg` of its own (`core.frames` says why).

Measured: if the first frame was corked too, a request and its reply would take one more turn of the event
loop at each end.

Bytes that wait here are *data* or *control*. Data are the program's own messages; `is_full` tells their
senders to wait. Control is never refused; `is_flooded` says when so many bytes or descriptors of it wait that
their cause must be stopped.
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

#: More descriptors than this may not wait for a peer: their cause is stopped then.
MOST_DESCRIPTORS: Final = 512
#: A peer that died with unread bytes gives ECONNRESET once, and EPIPE to writers. Both are ordinary ends.
ENDS: Final = (errno.ECONNRESET, errno.EPIPE)
#: Temporary: too many descriptors of this user are in flight (unix(7)), or memory is short.
_LATER: Final = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
_RETRY_AFTER: Final = 0.01
_SEND_SIZE: Final = 128 * 1024
_CORK_FRAMES: Final = 16
_CORK_SIZE: Final = 4096  # a larger frame is worth a `sendmsg` of its own
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class NoPeer:
    """Stands for a socket whose peer never existed. It takes no descriptor: there may be none left."""

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
    """See the module. The channel keeps the socket and closes it.

    `on_flood` is called when `is_flooded` has changed. `on_failed` is called from the loop when the peer
    takes no more: with the error, or with None if the peer is simply gone.
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
        #: Bytes that wait for the socket, and those counted by `hold`.
        self.waiting = 0
        self.buffer_limit = buffer_limit
        self.is_flooded = False
        self.is_closed = False
        #: While set, frames are corked until the end of the turn or chunk. The reader sets it for the
        #: duration of a chunk and must call `end_reading` before the loop goes on.
        self.is_corked = False
        self._sock = sock
        self._loop = loop
        self._peer = peer
        self._on_flood = on_flood
        self._on_failed = on_failed

        # Frames that wait, each with its descriptors and its number of control bytes.
        self._queue: deque[tuple[bytes, tuple[int, ...], int]] = deque()
        # The rest of the send under way.
        self._sending: memoryview | bytes = b""
        self._sending_fds: tuple[int, ...] = ()
        self._sending_control = 0

        self._control = 0  # control bytes that wait here
        self._descriptors = 0  # descriptors of control frames that wait
        self._has_begun = False  # a frame was sent alone since this turn began, as far as known
        self._is_blocked = False  # a writer, a timer or the end follows: `put` need not send
        self._has_writer = False
        self._flush_handle: asyncio.Handle | None = None
        self._room_waiters: Waiters = deque()
        self._empty_waiters: Waiters = deque()

    @property
    def is_full(self) -> bool:
        """Whether senders of data should wait."""
        return self.waiting >= self.buffer_limit

    def put(self, frame: bytes, fds: tuple[int, ...] = (), *, is_control: bool = False) -> None:
        """Send an encoded frame and take over its descriptors. Once closed, only close the descriptors."""
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
        """Put a frame whose bytes `hold` has counted."""
        self.waiting -= len(frame)
        self.put(frame, fds)

    def end_reading(self) -> None:
        """The chunk has been read, in a turn of its own: send the frames it caused."""
        self.is_corked = self._flush_handle is not None
        self._has_begun = False
        if self._queue and not self._is_blocked:
            self._send()

    def send_now(self) -> None:
        """Send what is corked without waiting for the end of the chunk or turn."""
        if not self._is_blocked:
            self._send()

    def hold(self, size: int) -> None:
        """Count `size` bytes that wait elsewhere as waiting. A negative size takes them back."""
        self.waiting += size
        if size < 0:
            self._wake()

    async def wait_room(self) -> None:
        """Return once the outbox is not full. Raises ChannelClosed if it is closed first."""
        while self.waiting >= self.buffer_limit:
            await wait_among(self._room_waiters)
        if self.is_closed:
            raise ChannelClosed(self._peer)

    async def flush(self) -> None:
        """Return once everything put or held is in the socket, or the channel is closed."""
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
        """Send what the socket takes. If frames remain, leave a writer or a timer behind. Hot."""
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
        """Join the frames without descriptors that follow to the one that is being sent."""
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
        # The descriptors go with the first byte, however few bytes were sent.
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
        """In a forked child, as `close`, except that the registrations of the parent's loop must stay."""
        self.is_closed = True
        self._has_writer = False
        self._drop()

    def close(self) -> None:
        """Drop what was not sent and release every waiter."""
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
