"""A worker that breaks the protocol loses its channel, and no other loses anything: without a process.

The hostile worker sends what a real one could; the honest one beside it goes on serving. With processes,
once for each pipe: `tests/integration/test_hostile.py`.
"""

import array
import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from everycore import Cluster, Event, Exited, ExitStatus, Message, Settings, State, Worker
from everycore.core import wire
from everycore.core.frames import NOTE, FrameDecoder, encode_frame
from everycore.system import seam
from everycore.system.descriptors import close_all
from everycore.testing import FakeWorker, settle
from everycore.testing.processes import FakeProcess, FakeSystem
from tests.kit import open_fds, pass_time
from tests.kit.crimes import CRIMES, LEGACIES, NAMES
from tests.kit.fake_processes import RawWorker

POLICIES = ("round_robin", "shared")
#: These depend on the policy: the same code handles all others.
BY_POLICY = [(crime, policy) for crime, source in CRIMES.items() for policy in POLICIES if "belt" in source]
BY_NONE = [(crime, POLICIES[0]) for crime, source in CRIMES.items() if "belt" not in source]


class Hostile:
    """A worker that sends arbitrary messages, and what crimes use."""

    def __init__(self, raw: RawWorker) -> None:
        self.raw = raw
        self.process = raw.process
        self.listener = object()
        self.belt: socket.socket
        self.twin: socket.socket
        self.names: dict[str, Any] = {
            "send": self.send,
            "raw": self.process.channel,
            "raw_link": self.process.link,
            "belt": lambda: (self.listener, self.belt),
            "twin": lambda _: self.twin,
        }
        exec(NAMES, self.names)
        self._fds: list[socket.socket] = []

    def send(self, data: bytes, fds: Any = (), sock: socket.socket | None = None) -> None:
        """Send as a process would: the descriptors are closed when they are sent."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        (sock or self.process.channel).sendmsg([data], rights)
        close_all(fds)

    async def listen(self) -> None:
        """Ask for a listener, and keep both ends of its belt."""
        request = wire.Listen(
            request=1,
            address=["127.0.0.1", 0],
            family=socket.AF_INET,
            kind=socket.SOCK_STREAM,
            backlog=10,
        )
        self.raw.say(request)
        await settle()
        data, fds, _, _ = socket.recv_fds(self.process.channel, 65536, 8)
        ((_, body, owned),) = FrameDecoder(1 << 20).feed(data, tuple(fds))
        assert isinstance(wire.decode_to_worker(body), wire.Granted)
        self._fds = [socket.socket(fileno=fd) for fd in owned[:2]]
        close_all(owned[2:])
        self.belt, self.twin = self._fds
        self.belt.send(wire.encode(wire.Serve(1)))
        await settle()

    def commit(self, crime: str) -> None:
        exec(crime, self.names)

    def close(self) -> None:
        """Close what the end of its process would close; it may have given some away."""
        for sock in self._fds:
            sock.close()
        self.process.channel.close()
        self.process.link.close()


class Scene:
    """A cluster with an honest worker and a hostile one."""

    def __init__(self, cluster: Cluster, good: Worker, fake: FakeWorker, address: Any) -> None:
        self.cluster = cluster
        self.good = good
        self.address = address
        self.told: list[type[Event]] = []
        self.bad: Worker
        self.hostile: Hostile
        self._fake = fake

    async def serves(self) -> None:
        """Check that the honest worker answers, and accepts a connection."""
        assert await self.good.request("still there?", timeout=1) == "still there?"
        assert self.good.state is State.LISTENING


@contextlib.asynccontextmanager
async def scene(policy: str, *, listens: bool = False, **options: Any) -> AsyncIterator[Scene]:
    processes: list[FakeProcess] = []
    token = seam.current.set(FakeSystem(processes.append))

    async def echo(message: Any, handle: Any) -> Any:
        return message

    try:
        async with Cluster(Settings(exec="program.py"), policy=policy, **options) as cluster:
            good = cluster.fork()
            fake = FakeWorker(processes[0])
            fake.answer(echo)
            sock = await fake.listen()
            await settle()
            on = Scene(cluster, good, fake, sock.getsockname())
            before = open_fds()
            on.bad = cluster.fork()
            on.hostile = Hostile(RawWorker(processes[1]))
            on.bad.on(Event, lambda event: on.told.append(type(event)))
            on.hostile.raw.join()
            await settle()
            if listens:
                await on.hostile.listen()
            try:
                yield on
            finally:
                on.hostile.close()
                if on.hostile.process.status is None:
                    on.hostile.process.end(ExitStatus(signal=signal.SIGKILL))
                await on.bad.wait()
            await on.serves()
            assert open_fds() == before
            fake.exit()
    finally:
        seam.current.reset(token)


@pytest.mark.parametrize(("crime", "policy"), BY_POLICY + BY_NONE)
async def test_it_costs_that_worker_alone(crime, policy):
    async with scene(policy, listens="belt" in CRIMES[crime]) as on:
        on.hostile.commit(CRIMES[crime])
        await settle()
        assert on.told[-1].__name__ == "Disconnected"
        assert on.bad.state is State.DISCONNECTED
        await on.serves()
        on.hostile.process.end(ExitStatus(code=75))
        assert await on.bad.wait() == ExitStatus(code=75)
        assert on.told[-1] is Exited
        assert not on.bad.exited_voluntarily


@pytest.mark.parametrize("crime", ["random bytes", "second Joined", "acks for what was never given"])
async def test_one_that_does_not_leave_is_killed_after_a_second(crime):
    async with scene("round_robin", listens=True) as on:
        began = asyncio.get_running_loop().time()
        on.hostile.commit(CRIMES[crime])
        await pass_time(0.9)
        assert not on.bad.is_dead()
        assert await on.bad.wait() == ExitStatus(signal=signal.SIGKILL)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)
        assert not on.bad.exited_voluntarily


async def test_one_that_announced_its_departure_and_then_misbehaves_is_not_given_its_grace():
    async with scene("round_robin", grace=1000) as on:
        on.hostile.raw.say_on_link(wire.Leave())
        await settle()
        assert on.bad.state is State.DRAINING
        on.hostile.commit(CRIMES["random bytes"])
        assert await on.bad.wait() == ExitStatus(signal=signal.SIGKILL)
        assert asyncio.get_running_loop().time() < 2
        assert on.bad.exited_voluntarily


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("keeps", [False, True], ids=["end of its channel", "its process alone"])
@pytest.mark.parametrize("legacy", LEGACIES)
async def test_what_it_leaves_where_the_primary_reads_does_not_delay_the_end(legacy, keeps, policy):
    """`keeps`: a fork of it still has channel, link and belt."""
    async with scene(policy, listens=True) as on:
        on.hostile.commit(f"l, b = belt(); {LEGACIES[legacy]}")
        on.hostile.process.end(ExitStatus(code=9), keep_channel=keeps)
        if not keeps:
            on.hostile.close()
        assert await on.bad.wait() == ExitStatus(code=9)
        assert [kind.__name__ for kind in on.told[-2:]] == ["Disconnected", "Exited"]
        assert set(on.cluster.workers) == {on.good.id}
        await on.serves()


async def test_its_last_good_words_are_heard():
    async with scene("round_robin") as on:
        messages = on.bad.messages()
        on.hostile.commit("send(note('one') + note('two') + b'garbage')")
        assert [message.message async for message in messages] == ["one", "two"]


async def test_a_malformed_value():
    """The frame is valid; the consumer finds out about its content."""
    async with scene("round_robin") as on:
        on.hostile.commit(f"send(pack({NOTE}, b'\\xc1'))")
        messages = on.bad.messages()
        assert [message async for message in messages] == []
        assert await on.bad.wait() == ExitStatus(signal=signal.SIGKILL)
        assert not on.bad.exited_voluntarily


async def test_frames_may_be_split_anywhere():
    async with scene("round_robin") as on:
        heard: list[Any] = []
        on.bad.on(Message, lambda message: heard.append(message.message))
        on.hostile.commit("data = note('grüße') + note([1, 2]) + note('x' * 300)")
        for byte in on.hostile.names["data"]:
            on.hostile.send(bytes([byte]))
            await settle()
        assert heard == ["grüße", [1, 2], "x" * 300]
        assert on.bad.is_connected()


def test_the_crimes_are_written_in_the_protocol_s_own_frames():
    names: dict[str, Any] = {}
    exec(NAMES, names)
    assert names["frame"]("Attached") == encode_frame(msgspec.msgpack.encode(["Attached"]))
