"""A channel whose peer sends anything, while the program at this end does what programs do.

A conversation is a list of acts. The peer sends a message, garbage, or a message with wrong bytes, with
descriptors. This side sends, asks, takes and lets go. Whatever the peer sends, nothing raises into the loop,
no descriptor leaks, and the end is reported once. The choices come from a `tests.kit.liars.Source`.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, get_args

import msgspec

from everycore.core import wire
from everycore.core.frames import NOTE, encode_frame
from everycore.errors import ChannelClosed, ChannelFull
from everycore.system.descriptors import close_all
from tests.kit import open_fds, turn
from tests.kit.channel_pairs import End, Raw, send_with
from tests.kit.liars import Source

#: All messages of a channel, for either end.
WORDS: Final = (*get_args(wire.ToPrimary), *get_args(wire.ToWorker), wire.Note)


class Conversation:
    """One end, the socket of its peer, and what the program at this end has under way."""

    def __init__(self, end: End, peer: socket.socket) -> None:
        self.end = end
        self.box = end.mailbox
        self.peer = peer
        peer.setblocking(False)
        self.complaints: list[dict[str, Any]] = []
        self.handles: list[Any] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._streams: list[Any] = []
        self._subscriptions: list[Any] = []

    async def act(self, source: Source) -> None:
        """One act, and what follows from it."""
        acts: Sequence[Callable[[Source], Any]] = (
            self._say, self._say, self._say, self._mangle, self._garbage, self._read, self._send, self._ask,
            self._answer, self._take, self._listen, self._let_go, self._shut,
        )  # fmt: skip
        with contextlib.suppress(OSError, ChannelClosed, ChannelFull):
            acts[source.number(0, len(acts) - 1)](source)
        await turn(2)

    def _word(self, source: Source) -> bytes:
        kind = WORDS[source.number(0, len(WORDS) - 1)]
        fields = [source.value() for _ in kind.__struct_fields__]
        if source.number(0, 1):  # likely numbers, and bodies that are values
            fields = [
                source.number(0, 3) if not index else msgspec.msgpack.encode(1)
                for index in range(len(fields))
            ]
        return msgspec.msgpack.encode([kind.__name__, *fields])

    def _put(self, source: Source, body: bytes) -> None:
        count = (0, 0, 0, 1, 1, 2)[source.number(0, 5)]
        claimed = count if source.number(0, 4) else source.number(0, 3)
        data = encode_frame(body, claimed, source.number(0, 1) and NOTE)
        data = data[: len(data) - source.number(0, 2)] if source.number(0, 7) == 0 else data
        # Every choice is made by now: a source that has run dry raises before anything is open.
        fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
        try:
            if fds:
                send_with(self.peer, data, fds)
            else:
                self.peer.send(data, socket.MSG_DONTWAIT)
        finally:
            close_all(fds)

    def _say(self, source: Source) -> None:
        self._put(source, self._word(source))

    def _mangle(self, source: Source) -> None:
        data = bytearray(self._word(source))
        data[source.number(0, len(data) - 1)] = source.number(0, 255)
        self._put(source, bytes(data))

    def _garbage(self, source: Source) -> None:
        self.peer.send(source.data(), socket.MSG_DONTWAIT)

    def _read(self, _: Source) -> None:
        close_all(socket.recv_fds(self.peer, 65536, 64, socket.MSG_DONTWAIT)[1])

    def _shut(self, source: Source) -> None:
        if source.number(0, 3) == 0:
            self.peer.shutdown(source.number(0, 2))

    # --- what our program does --------------------------------------------------------------------------

    def _handle(self, source: Source) -> Any:
        if source.number(0, 2):
            return None
        return open(os.devnull, "rb")

    def _send(self, source: Source) -> None:
        handle = self._handle(source)
        try:
            self.box.send_nowait("x" * source.number(0, 200), handle)
        except BaseException:
            if handle is not None:
                handle.close()
            raise

    def _ask(self, source: Source) -> None:
        self._begin(self.box.request(source.number(0, 9), timeout=float(source.number(1, 3))))

    def _answer(self, source: Source) -> None:
        async def handler(message: Any, handle: Any) -> Any:
            self.handles.append(handle)
            return message

        with contextlib.suppress(RuntimeError):
            self._subscriptions.append(self.box.answer(handler))

    def _take(self, _: Source) -> None:
        async def taking(stream: Any) -> None:
            async for message in stream:
                self.handles.append(message.handle)

        stream = self.box.messages()
        self._streams.append(stream)
        self._begin(taking(stream))

    def _listen(self, _: Source) -> None:
        self._subscriptions.append(self.box.on_message(lambda message: self.handles.append(message.handle)))

    def _let_go(self, source: Source) -> None:
        if self._tasks and source.number(0, 1):
            self._tasks.pop().cancel()
        elif self._subscriptions:
            self._subscriptions.pop().cancel()

    def _begin(self, coroutine: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Exception):
                await coroutine

        self._tasks.append(asyncio.get_running_loop().create_task(quietly()))

    # --- the end ----------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let the peer go, and everything that was under way end."""
        self.peer.close()
        await turn(3)
        losses = list(self.end.losses)
        await self.tidy()
        assert len(losses) == 1, losses
        assert self.complaints == []

    async def tidy(self) -> None:
        """End what is under way, and close every handle."""
        self.box.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._streams.clear()
        for handle in self.handles:
            if handle is not None:
                handle.close()


async def conversation(source: Source, acts: Iterable[object]) -> None:
    """Run a conversation, with an act for each of `acts`. Without its channel it goes on, then on another."""
    before = open_fds()
    left = iter(acts)
    while await _on_one_channel(source, left):
        continue
    assert {n: w for n, w in open_fds().items() if before.get(n) != w} == {}


async def _on_one_channel(source: Source, acts: Iterator[object]) -> bool:
    """Whether there may be more acts, for another one."""
    async with Raw(serialization="json", is_primary=bool(source.number(0, 1))) as (end, peer):
        on = Conversation(end, peer)
        asyncio.get_running_loop().set_exception_handler(lambda _, what: on.complaints.append(what))
        is_over = False
        try:
            for _ in acts:
                await on.act(source)
                if is_over := bool(end.losses) and source.number(0, 3) == 0:
                    break
        except BaseException:  # also when the source has run dry
            await on.tidy()
            raise
        await on.finish()
    return is_over
