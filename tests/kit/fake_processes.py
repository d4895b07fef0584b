"""Workers that speak the wire protocol: as in `everycore.testing`, but able to do what a real one never does.

`with FakeProcesses() as processes:` gives them to every cluster that is entered. The test plays each worker:
it says what goes over channel and link, byte for byte, and in which order the kernel reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from everycore.core import values, wire
from everycore.core.frames import NOTE, encode_frame
from everycore.model import ExitStatus
from everycore.system import packets, seam
from everycore.system.descriptors import close_all
from everycore.testing import settle
from everycore.testing.processes import FakeProcess, FakeSystem


class RawWorker:
    """One worker, seen from its own side."""

    def __init__(self, process: FakeProcess) -> None:
        self.process = process
        self.pid = process.pid

    @property
    def signals(self) -> list[int]:
        """The signals that the primary has sent."""
        return [int(number) for number in self.process.signals]

    def say(self, message: Any) -> None:
        """Send `message` on the channel. The primary reads it when its loop goes on."""
        self.process.channel.send(encode_frame(wire.encode(message)))

    def join(self) -> None:
        """Send what `import everycore` sends."""
        self.say(wire.Joined(self.pid))

    def say_note(self, message: Any) -> None:
        """Send a message of the program."""
        self.process.channel.send(encode_frame(values.encode(message), kind=NOTE))

    def say_on_link(self, request: Any, number: int = 1) -> None:
        """Send `request` on the link."""
        self.process.link.send(wire.LINK_NUMBER.pack(number) + wire.encode(request))

    async def ask(self, request: Any, fds: Sequence[int] = (), number: int = 1) -> tuple[Any, list[int]]:
        """Send `request` on the link; return the answer and its descriptors. `fds` are closed here."""
        packets.send(self.process.link, wire.LINK_NUMBER.pack(number) + wire.encode(request), fds)
        close_all(fds)
        await settle()
        answer = packets.receive(self.process.link)
        assert answer is not None
        data, owned, _ = answer
        assert wire.LINK_NUMBER.unpack_from(data) == (number,)
        return wire.decode_link_reply(data[wire.LINK_NUMBER.size :]), owned

    def end(self, status: ExitStatus, *, keep_channel: bool = False) -> None:
        """End the process: its pidfd becomes readable. `keep_channel`: a fork of it keeps the channel."""
        self.process.end(status, keep_channel=keep_channel)

    def close(self) -> None:
        """Close the worker's ends."""
        self.process.close()


class FakeProcesses:
    """All fake workers, in the order of their forks."""

    def __init__(self) -> None:
        self.all: list[RawWorker] = []
        self.system = FakeSystem(lambda process: self.all.append(RawWorker(process)))
        self._token: Token[seam.System]

    def __enter__(self) -> Self:
        self._token = seam.current.set(self.system)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        seam.current.reset(self._token)
        for worker in self.all:
            worker.close()
