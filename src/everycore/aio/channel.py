"""One end of the ordered pipe between the primary and one worker, on a running event loop.

Bytes and descriptors in and out of a non-blocking unix stream socket; whole messages to the owner. Invariant:
nothing the peer sends raises into the loop, leaks a descriptor or makes this process grow without bound;
`on_lost` is called exactly once unless `close()` comes first; whatever was complete before the end was
delivered before `on_lost`.

A peer that makes us answer and never reads is held by not reading from it while more than `buffer_limit`
bytes of control messages wait to be sent. The program's own messages do not stop the reading: two sides
full of each other's would then wait for ever. They have a window instead (`aio.mailbox`).
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

#: What the wire adds to a user's value, and the longest control message (a path and some numbers).
OVERHEAD: Final = 16 * 1024

_READ_SIZE: Final = 64 * 1024
_READS_A_TURN: Final = 16  # at most 1 MiB, then others run
FRAMES_A_TURN: Final = 512  # nor another chunk after so many: each of them is work
# Plain ints: an IntFlag takes longer for `&` than recvmsg for a byte.
_RECV_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_CTRUNC: Final = int(socket.MSG_CTRUNC)
_TRUNCATED: Final = "descriptors were lost on the way (is this process at its limit of open descriptors?)"


class Channel:
    """See the module. All methods belong to the thread of `loop`; the channel owns `sock`."""

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
        #: Who takes the bodies of notes. A mailbox puts itself here: the way by `on_message` costs more.
        self.on_note: Callable[[bytes, tuple[int, ...]], None] = self._pass_note
        self._on_lost = on_lost
        self._frames = FrameDecoder(max_message + OVERHEAD)
        self._is_paused = isinstance(sock, NoPeer)
        self._has_reader = False
        self._is_delivering = False
        self._delivered = 0  # frames in this turn
        self._is_closed = False
        #: The sending half, for those who send much.
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
        """The descriptor; -1 once closed."""
        return self._sock.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether it was lost, or closed by us."""
        return self._is_closed

    # --- sending ----------------------------------------------------------------------------------

    def post(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send a control message: never refused, never waits. The descriptors are the channel's from here on.

        On a closed channel nothing happens, but for closing them: who must know hears of it by `on_lost`.
        """
        try:
            frame = encode_frame(wire.encode(message), len(fds))
        except BaseException:
            close_all(fds)
            raise
        self.outbox.put(frame, tuple(fds), is_control=True)

    @property
    def waiting(self) -> int:
        """Bytes on their way into the socket, and those that wait for the peer's window."""
        return self.outbox.waiting

    @property
    def is_full(self) -> bool:
        """Whether senders of the program's messages should wait."""
        return self.outbox.is_full

    async def wait_room(self) -> None:
        """Return once the channel is not full; `ChannelClosed` if it ends before."""
        await self.outbox.wait_room()

    async def flush(self) -> None:
        """Return once everything sent so far is in the socket, or the channel is closed."""
        await self.outbox.flush()

    # --- receiving ----------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Take nothing from the socket until `resume_reading`."""
        self._is_paused = True
        self._update_reader()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._is_paused = False
        self._update_reader()

    def read_to_end(self) -> None:
        """After the peer's death: deliver what is left, then call `on_lost`.

        A grandchild may hold the peer's end open for ever, and write there: it can send no more.
        """
        if self._is_delivering:  # called by what a message led to: the rest of its chunk comes first
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
        """Read and deliver one chunk. False: nothing is left for now, or the channel is lost.

        end: why it is lost when nothing more comes.
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
            # Either more came than a frame may carry, or this process has no descriptor left.
            close_strange(fds)
            fds = ()
        try:
            self._deliver(data, fds)
            if is_truncated:
                raise ProtocolError(_TRUNCATED)
        except ProtocolError as error:
            self._lose(ProtocolError(_TRUNCATED) if is_truncated else error)
            return False
        # A chunk that did not fill the buffer was the last, unless descriptors ended it.
        return rearm or len(data) == _READ_SIZE or bool(fds)

    def _deliver(self, data: bytes, fds: tuple[int, ...]) -> None:
        """Cut, decode, hand over. Hot. Raises ProtocolError once what was good before it is handed over."""
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
                    log.exception("a message of %s was not handled", self.peer)
        finally:
            self._is_delivering = False
        if self._frames.violation is not None:
            raise self._frames.violation

    def _deliver_wire(self, body: bytes, fds: tuple[int, ...]) -> None:
        try:
            message = self._decode(body)
        except Exception as error:
            close_strange(fds)
            raise ProtocolError(f"a message of {self.peer} can't be understood: {error}") from error
        self._on_message(message, fds)

    def _pass_note(self, body: bytes, fds: tuple[int, ...]) -> None:
        self._on_message(wire.Note(body), fds)

    # --- the end ----------------------------------------------------------------------------------

    def fail(self, error: ProtocolError) -> None:
        """Give the peer up: what it sent can't be understood. `on_lost` hears `error`."""
        self._lose(error)

    def close(self) -> None:
        """Close at once; what was not sent is dropped. `on_lost` is not called."""
        if self._is_closed:
            return
        self._is_closed = True
        self._update_reader()
        self.outbox.close()
        if not isinstance(self._sock, NoPeer):
            close_emptied(self._sock)
        close_strange(self._frames.close())

    def abandon(self) -> None:
        """In a forked child: close our copies, and say nothing. The loop is the parent's, and not touched."""
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
            log.exception("the loss of the channel to %s was not handled", self.peer)
