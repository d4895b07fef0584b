"""The program's own messages, for both faces: `send`, `messages()`, `on(Message)`. Requests: `aio.requests`.

Put values and handles into frames and send them within the peer's window (`core.window`). `aio.delivery`
delivers what arrives. Invariant: messages of one side are taken in the order of their `send`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from everycore.aio.channel import Channel
from everycore.aio.delivery import Delivery
from everycore.aio.requests import Requests, take_handle
from everycore.core import values, wire
from everycore.core.frames import NOTE, encode_frame
from everycore.core.window import Outgoing
from everycore.errors import ChannelClosed, ChannelFull, ProtocolError
from everycore.system.descriptors import close_all
from everycore.system.strange import close_strange


class Mailbox:
    """See the module.

    `channel` must hand Note, Ask, Answer, Failure and Took to `deliver`, and call `lost` when it is lost.

    `make_message` and `on_handle`: see `Delivery`.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        loop: asyncio.AbstractEventLoop,
        make_message: Callable[[Any, Any], Any],
        on_handle: Callable[[Any], None] | None = None,
        serialization: str = "json",
    ) -> None:
        #: How the peer ended, for `ChannelClosed`. The owner of the mailbox sets it when it learns it.
        self.peer_status: Any = None
        self._channel = channel
        self._outbox = channel.outbox
        self._max_message = channel.max_message
        is_pickle = serialization == "pickle"
        self._encode = values.encode_pickle if is_pickle else values.encode_json
        self._is_lost = False

        self._outgoing = Outgoing()
        self._held: deque[tuple[bytes, int, tuple[int, ...]]] = deque()  # beyond the window
        self._delivery = delivery = Delivery(
            channel, loop=loop, make_message=make_message, on_handle=on_handle, is_pickle=is_pickle
        )
        #: `messages()` and `on_message(callback)`: see `Delivery`. Requests use its `decode` and accounts.
        self.messages, self.on_message = delivery.messages, delivery.on_message
        self.decode, self.taken, self.handle_taken = delivery.decode, delivery.taken, delivery.handle_taken
        channel.on_note = delivery.note
        self._requests = Requests(self, channel, loop)
        #: `request(message, handle=None, *, timeout, keep_open=False)` and `answer(handler)`: see `Requests`.
        self.request = self._requests.request
        self.answer = self._requests.answer

    @property
    def dropped_handles(self) -> int:
        """How many handles arrived that nobody took."""
        return self._delivery.dropped_handles

    # --- sending ----------------------------------------------------------------------------------

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """Send at once. When awaited, wait until what is unsent is within the buffer limit.

        Errors raise at the call. This is not an `async def`: a task made of one would duplicate the handle
        only when it first runs. Cancelling the wait does not take the message back.
        """
        self._send_note(message, handle, keep_open)
        return self.wait_room() if self._outbox.is_full else _sent()

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """Send, or raise ChannelFull and leave the handle untouched."""
        outbox = self._outbox
        if outbox.waiting >= outbox.buffer_limit:
            raise ChannelFull(self._channel.peer, outbox.waiting)
        self._send_note(message, handle, keep_open)

    async def wait_room(self) -> None:
        """Return once `send_nowait` would find room. Raises ChannelClosed if the channel ends first."""
        try:
            await self._channel.wait_room()
        except ChannelClosed as closed:
            raise ChannelClosed(closed.peer, self.peer_status) from None

    async def flush(self) -> None:
        """Return once everything sent is in the socket, or the channel is closed."""
        await self._channel.flush()

    def _send_note(self, message: Any, handle: Any, keep_open: bool) -> None:
        """Encode and send one message. Hot."""
        if self._outbox.is_closed:
            self.check_open()
        body = self._encode(message)
        size = len(body)
        if size > self._max_message:
            raise self._too_large(size)
        fds = () if handle is None else take_handle(handle, keep_open=keep_open)
        frame = encode_frame(body, len(fds), NOTE)
        if not self._held and self._outgoing.try_send(size, len(fds)):
            self._outbox.put(frame, fds)
        else:
            self._hold(frame, size, fds)

    def encode(self, message: Any) -> bytes:
        """Return the encoded body of `message`. Raises if it can't be encoded or is too large."""
        body = self._encode(message)
        if len(body) > self._max_message:
            raise self._too_large(len(body))
        return body

    def _too_large(self, size: int) -> ValueError:
        return ValueError(f"a message of {size} bytes; at most {self._max_message} are allowed")

    def submit(self, frame: bytes, size: int, fds: tuple[int, ...]) -> None:
        """Send a note's or request's frame, with a body of `size` bytes, now or once the window allows it."""
        if not self._held and self._outgoing.try_send(size, len(fds)):
            self._outbox.put(frame, fds)
        else:
            self._hold(frame, size, fds)

    def _hold(self, frame: bytes, size: int, fds: tuple[int, ...]) -> None:
        self._held.append((frame, size, fds))
        self._outbox.hold(len(frame))

    def _took(self, message: wire.Took) -> None:
        self._outgoing.took(message.count, message.size, message.handles)
        held, try_send, put = self._held, self._outgoing.try_send, self._outbox.put_held
        while held and try_send(held[0][1], len(held[0][2])):
            frame, _, fds = held.popleft()
            put(frame, fds)

    def check_open(self) -> None:
        if self._channel.is_closed:
            raise ChannelClosed(self._channel.peer, self.peer_status)

    # --- receiving ----------------------------------------------------------------------------------

    def deliver(self, message: Any, fds: tuple[int, ...]) -> bool:
        """Take a wire message and its descriptors. Return False if the message is not for a mailbox."""
        kind = type(message)
        if kind is wire.Note:
            self._delivery.note(message.body, fds)
        elif kind is wire.Ask:
            self._delivery.arrived(message.body, fds)
            self._requests.asked(message, fds)
        elif kind is wire.Answer or kind is wire.Failure:
            self._no_descriptors(fds)
            self._requests.replied(message)
        elif kind is wire.Took:
            self._no_descriptors(fds)
            self._took(message)
        else:
            return False
        return True

    def _no_descriptors(self, fds: tuple[int, ...]) -> None:
        if fds:
            close_strange(fds)
            raise ProtocolError("descriptors came with a message that has no use for them")

    # --- the end ----------------------------------------------------------------------------------

    def lost(self) -> None:
        """The channel is lost: streams end after what they hold, and requests fail. Idempotent.

        If `peer_status` is known, set it first: `ChannelClosed` carries it.
        """
        if self._is_lost:
            return
        self._is_lost = True
        self._delivery.lost()
        for _, _, fds in self._held:
            close_all(fds)
        self._held.clear()
        self._requests.lost()

    def close(self) -> None:
        """As `lost`; also close the channel and cancel the handlers that run."""
        self._channel.close()
        self.lost()
        self._requests.cancel()


async def _sent() -> None:
    """`send` returns this when there is nothing to wait for."""
