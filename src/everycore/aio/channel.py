"""One end of the ordered pipe between the primary and one worker, on a running event loop.

Move bytes and descriptors through a non-blocking unix stream socket, and give whole messages to the owner.
Invariant: nothing the peer sends raises into the loop, leaks a descriptor or makes this process grow without
bound. `on_lost` is called exactly once unless `close()` comes first. Every message that was complete before
the end is delivered before `on_lost`.

A peer may provoke answers and never read them. The channel stops reading from such a peer while more than
`buffer_limit` bytes of control messages wait to be sent. The program's own messages do not stop the reading:
two sides with full buffers would then wait for each other forever. A window limits them instead
(`aio.mailbox`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from everycore.aio.outbox import ENDS, NoPeer, Outbox
from everycore.aio.subscriptions import log
from everycore.core import wire
from everycore.core.frames import NOTE, FrameDecoder, encode_frame
from everycore.errors import ProtocolError
from everycore.system.descriptors import close_all, close_now
from everycore.system.strange import ROOM, close_emptied, close_strange, descriptors_in, refuse_more

#: Room for what the wire adds to a user's value, and for the longest control message (a path and numbers).
OVERHEAD: Final = 16 * 1024

_READ_SIZE: Final = 64 * 1024
_READS_A_TURN: Final = 16  # at most 1 MiB, then other callbacks run
FRAMES_A_TURN: Final = 512  # no further chunk after this many: each frame is work
# Plain ints: `&` of an IntFlag takes longer than recvmsg of one byte.
_RECV_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_CTRUNC: Final = int(socket.MSG_CTRUNC)
_TRUNCATED: Final = "descriptors were lost on the way (is this process at its limit of open descriptors?)"


class Channel:
    """See the module. Call every method in the thread of `loop`. The channel owns `sock`."""

    def __init__(
        self,
        sock: socket.socket | NoPeer,
        *,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        decode: Callable[[bytes], Any],
        max_message: int,
        on_message: Callable[[Any, tuple[int, ...]], None],
        on_lost: Callable[[Exception | None], None],
        buffer_limit: int = 1 << 20,
    ) -> None:
        sock.setblocking(False)
        self.peer = peer
        self.max_message = max_message
        self._sock = sock
        self._loop = loop
        self._decode = decode
        self._on_message = on_message
        #: Called with the body of each note. A mailbox puts its own method here: `on_message` costs more.
        self.on_note: Callable[[bytes, tuple[int, ...]], None] = self._pass_note
        self._on_lost = on_lost
        self._frames = FrameDecoder(max_message + OVERHEAD)
        self._is_paused = isinstance(sock, NoPeer)
        self._has_reader = False
        self._is_delivering = False
        self._delivered = 0  # frames in this turn
        self._is_closed = False
        #: The sending half, for callers that send a lot.
        self.outbox = Outbox(
            sock,
            loop=loop,
            peer=peer,
            buffer_limit=buffer_limit,
            on_flood=self._update_reader,
            on_failed=self._read_last_words,
        )
        self._update_reader()

    def fileno(self) -> int:
        """Return the descriptor, or -1 once the channel is closed."""
        return self._sock.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether the channel was lost, or closed by this side."""
        return self._is_closed

    # --- sending ----------------------------------------------------------------------------------

    def post(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send a control message. It is never refused and never waits. The channel owns `fds` from here on.

        A closed channel only closes `fds`: the owner learns of a loss by `on_lost`.
        """
        try:
            frame = encode_frame(wire.encode(message), len(fds))
        except BaseException:
            close_all(fds)
            raise
        self.outbox.put(frame, tuple(fds), is_control=True)

    @property
    def waiting(self) -> int:
        """Bytes that are not in the socket yet, including those that wait for the peer's window."""
        return self.outbox.waiting

    @property
    def is_full(self) -> bool:
        """Whether senders of the program's messages should wait."""
        return self.outbox.is_full

    async def wait_room(self) -> None:
        """Return once the channel is not full. Raises ChannelClosed if it ends first."""
        await self.outbox.wait_room()

    async def flush(self) -> None:
        """Return once everything sent so far is in the socket, or the channel is closed."""
        await self.outbox.flush()

    # --- receiving ----------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Read nothing from the socket until `resume_reading`."""
        self._is_paused = True
        self._update_reader()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._is_paused = False
        self._update_reader()

    def read_to_end(self) -> None:
        """After the peer's death, deliver what is left, then call `on_lost`.

        A grandchild may hold the peer's end open forever and write to it. From here on it can send no more.
        """
        if self._is_delivering:  # called by a message's handler: the rest of the chunk comes first
            self._loop.call_soon(self._read_last_words, None)
        else:
            self._read_last_words(None)

    def _update_reader(self) -> None:
        wanted = not (self._is_closed or self._is_paused or self.outbox.is_flooded)
        if wanted is not self._has_reader:
            self._has_reader = wanted
            if wanted:
                self._loop.add_reader(self._sock, self._readable)
            else:
                self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        outbox = self.outbox
        outbox.is_corked = True
        try:
            self._delivered = 0
            for _ in range(_READS_A_TURN):
                if not self._read_once() or not self._has_reader or self._delivered >= FRAMES_A_TURN:
                    return
        finally:
            outbox.end_reading()

    def _read_last_words(self, error: OSError | None) -> None:
        if not isinstance(self._sock, NoPeer):
            refuse_more(self._sock)
        while not self._is_closed and self._read_once(rearm=True, end=error):
            pass
        self._lose(error)

    def _read_once(self, *, rearm: bool = False, end: OSError | None = None) -> bool:
        """Read and deliver one chunk. Return False if nothing is left for now, or the channel is lost.

        end: the reason of the loss if the stream has ended.
        """
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_READ_SIZE, ROOM, _RECV_FLAGS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(None if error.errno in ENDS else error)
            return False
        fds = tuple(descriptors_in(ancillary)) if ancillary else ()
        if not data:
            close_strange(fds)
            self._lose(end)
            return False
        is_truncated = bool(flags & _CTRUNC)
        if is_truncated:
            # Either the peer sent more than a frame may carry, or this process has no descriptor left.
            close_strange(fds)
            fds = ()
        try:
            self._deliver(data, fds)
            if is_truncated:
                raise ProtocolError(_TRUNCATED)
        except ProtocolError as error:
            self._lose(ProtocolError(_TRUNCATED) if is_truncated else error)
            return False
        # A chunk that did not fill the buffer is the last one, unless descriptors ended it.
        return rearm or len(data) == _READ_SIZE or bool(fds)

    def _deliver(self, data: bytes, fds: tuple[int, ...]) -> None:
        """Cut the chunk into frames, decode and deliver them. Hot.

        Raises ProtocolError, after every message before the violation was delivered.
        """
        on_note = self.on_note
        self._is_delivering = True
        try:
            frames = self._frames.feed(data, fds)
            self._delivered += len(frames)
            for kind, body, owned in frames:
                if self._is_closed:
                    close_strange(owned)
                    continue
                try:
                    if kind == NOTE:
                        on_note(body, owned)
                    else:
                        self._deliver_wire(body, owned)
                except ProtocolError as error:
                    self._lose(error)
                except Exception:
                    log.exception("handling a message from %s failed", self.peer)
        finally:
            self._is_delivering = False
        if self._frames.violation is not None:
            raise self._frames.violation

    def _deliver_wire(self, body: bytes, fds: tuple[int, ...]) -> None:
        try:
            message = self._decode(body)
        except Exception as error:
            close_strange(fds)
            raise ProtocolError(f"a message from {self.peer} can't be understood: {error}") from error
        self._on_message(message, fds)

    def _pass_note(self, body: bytes, fds: tuple[int, ...]) -> None:
        self._on_message(wire.Note(body), fds)

    # --- the end ----------------------------------------------------------------------------------

    def fail(self, error: ProtocolError) -> None:
        """Give up the peer, which sent something that can't be understood. `on_lost` is given `error`."""
        self._lose(error)

    def close(self) -> None:
        """Close at once and drop what was not sent. `on_lost` is not called."""
        if self._is_closed:
            return
        self._is_closed = True
        self._update_reader()
        self.outbox.close()
        if not isinstance(self._sock, NoPeer):
            close_emptied(self._sock)
        close_strange(self._frames.close())

    def abandon(self) -> None:
        """In a forked child, close our copies and tell nobody. The parent's loop is not touched."""
        self._is_closed = True
        self._has_reader = False
        self.outbox.abandon()
        close_all(self._frames.close())
        if isinstance(self._sock, socket.socket):
            close_now(self._sock)

    def _lose(self, error: Exception | None) -> None:
        if self._is_closed:
            return
        if error is None and not self._frames.is_between_frames:
            error = ProtocolError(f"the channel to {self.peer} ended in the middle of a message")
        self.close()
        try:
            self._on_lost(error)
        except Exception:
            log.exception("handling the loss of the channel to %s failed", self.peer)
