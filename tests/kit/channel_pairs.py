"""Two ends of a real channel in one loop, and what each of them received."""

import array
import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from everycore.aio.channel import Channel
from everycore.aio.mailbox import Mailbox
from everycore.core import wire
from everycore.core.frames import NOTE, encode_frame
from everycore.events import Message
from everycore.system.descriptors import close_all
from tests.kit import turn

#: The event loops on which everything here must work.
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS.append(uvloop.new_event_loop)
    uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from its first loop on

MAX_MESSAGE = 1 << 20


def note(size: int = 10) -> bytes:
    """A frame with a note of that size."""
    return encode_frame(b"x" * size, 0, NOTE)


async def until(condition: Callable[[], Any], turns: int = 100_000) -> None:
    """Let the loop run until `condition` holds. Everything is in this process, so no time need pass."""
    for _ in range(turns):
        if condition():
            return
        await turn()
    raise AssertionError("it never happened")


@dataclass(eq=False)
class End:
    """One channel, and what it received."""

    sock: socket.socket
    is_primary: bool = True
    buffer_limit: int = 1 << 20
    max_message: int = MAX_MESSAGE
    serialization: str | None = None
    heard: list[tuple[Any, tuple[int, ...]]] = field(default_factory=list)
    losses: list[Exception | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.channel = Channel(
            self.sock,
            loop=asyncio.get_running_loop(),
            peer="the worker" if self.is_primary else "the primary",
            decode=wire.decode_to_primary if self.is_primary else wire.decode_to_worker,
            max_message=self.max_message,
            on_message=self.received,
            on_lost=self.lost,
            buffer_limit=self.buffer_limit,
        )
        if self.serialization:
            self.mailbox = Mailbox(
                self.channel,
                loop=asyncio.get_running_loop(),
                make_message=make_message,
                serialization=self.serialization,
            )

    def received(self, message: Any, fds: tuple[int, ...]) -> None:
        if not self.serialization or not self.mailbox.deliver(message, fds):
            self.heard.append((message, fds))

    def lost(self, error: Exception | None) -> None:
        self.losses.append(error)
        if self.serialization:
            self.mailbox.lost()

    def close(self) -> None:
        if self.serialization:
            self.mailbox.close()
        self.channel.close()
        for _, fds in self.heard:
            close_all(fds)


def make_message(value: Any, handle: Any) -> Message:
    return Message(seq=1, at=0.0, worker=None, message=value, handle=handle)  # type: ignore[arg-type]


class Pair:
    """`async with Pair() as (primary, worker)`."""

    def __init__(self, *, serialization: str | None = None, **options: Any) -> None:
        self.options = options
        self.serialization = serialization

    async def __aenter__(self) -> tuple[End, End]:
        left, right = socket.socketpair()
        self.ends = (
            End(left, is_primary=True, serialization=self.serialization, **self.options),
            End(right, is_primary=False, serialization=self.serialization, **self.options),
        )
        return self.ends

    async def __aexit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()
        await turn(3)


class Raw:
    """One channel, and a bare socket that may send anything: `async with Raw() as (end, peer)`."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    async def __aenter__(self) -> tuple[End, socket.socket]:
        left, self.peer = socket.socketpair()
        self.end = End(left, **self.options)
        return self.end, self.peer

    async def __aexit__(self, *_: object) -> None:
        self.end.close()
        self.peer.close()
        await turn(3)


def send_with(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def Boxes(**options):
    """`async with Boxes() as (primary, worker)`: two ends with mailboxes."""
    return Pair(**{"serialization": "json", **options})


async def take(stream, count):
    """The next `count` messages of a stream."""
    return [await anext(stream) for _ in range(count)]


def values(messages):
    """The values that those messages carried."""
    return [message.message for message in messages]
