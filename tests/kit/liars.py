"""A worker that lies at every step, in memory: what it may say, and what must hold whatever it says.

A history is a list of lies. `Court` is a cluster with an honest worker and a liar. `tell` lets the liar tell
one lie. A liar that has lost its channel goes on for a while. Then another is forked, which costs less than a
new court. `judge`, at the end, checks that no other worker has lost anything. The messages are those of
`everycore.core.wire`, so they keep up with it. Their fields, and the bytes that are exchanged in them, come
from a `Source`, which may be hypothesis or a fuzzer.
"""

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, get_args

import msgspec

from everycore import Cluster, ExitStatus, Settings, Worker
from everycore.core import wire
from everycore.core.frames import NOTE, encode_frame
from everycore.system import board, seam, strange
from everycore.system.descriptors import close_all, is_socket
from everycore.testing import FakeWorker, settle
from everycore.testing.processes import FakeProcess, FakeSystem
from tests.kit import open_fds, pass_time
from tests.kit.fake_processes import RawWorker

#: All messages of a worker, and those of the primary.
WORDS: Final = (
    *get_args(wire.ToPrimary), *get_args(wire.LinkRequest), *get_args(wire.Upstream),
    *get_args(wire.ToWorker), wire.Handover, wire.Rest, wire.Note,
)  # fmt: skip
#: Where they are sent.
PIPES: Final = ("channel", "link", "belt", "the primary's end")


class Source(Protocol):
    """Where a liar takes its choices from."""

    def number(self, least: int, most: int) -> int:
        """A number in this range."""

    def value(self) -> Any:
        """Any value that msgpack can express."""

    def data(self) -> bytes:
        """Any bytes."""


class Court:
    """A cluster of fakes. `complaints`: the errors that reached the loop's exception handler."""

    liar: Worker
    process: FakeProcess

    def __init__(self, cluster: Cluster, good: Worker, listener: Any, processes: list[FakeProcess]) -> None:
        self.cluster = cluster
        self.good = good
        self.listener = listener
        self._processes = processes
        self.belt: socket.socket | None = None
        self.end: socket.socket | None = None
        self.complaints: list[dict[str, Any]] = []
        self._clients: list[socket.socket] = []
        self._answers: list[int] = []

    async def accuse(self) -> None:
        """Fork a worker that will lie: the first one, or the next. It listens where the other one does."""
        self.liar = self.cluster.fork()
        raw = RawWorker(self._processes[-1])
        self.process = raw.process
        raw.join()
        await settle()
        raw.say(_listen_like(self.listener))
        await settle()
        self._take(_First())

    async def dismiss(self, *, dies_alone: bool) -> None:
        """Its process ends. `dies_alone`: a fork of it has its channel for a moment."""
        if self.process.status is None:
            self.process.end(ExitStatus(code=9), keep_channel=dies_alone)
        await settle()
        assert list(self.cluster.workers) == [self.good.id]
        self.close()

    # --- what a liar does -------------------------------------------------------------------------------

    async def tell(self, source: Source) -> None:
        """Tell one lie, or one truth, and handle what follows."""
        acts: Sequence[Callable[[Source], Any]] = (
            self._say, self._say, self._say, self._mangle, self._garbage, self._write_on_board,
            self._take, self._connect, self._shut, self._pass_time,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            result = acts[source.number(0, len(acts) - 1)](source)
            if result is not None:
                await result
        await settle()

    def _say(self, source: Source) -> None:
        self._send(source, self._word(source))

    def _mangle(self, source: Source) -> None:
        data = bytearray(self._word(source))
        for _ in range(source.number(1, 3)):
            data[source.number(0, len(data) - 1)] = source.number(0, 255)
        self._send(source, bytes(data))

    def _garbage(self, source: Source) -> None:
        self._send(source, source.data())

    def _word(self, source: Source) -> bytes:
        """A message, mostly with the right number of fields."""
        kind = WORDS[source.number(0, len(WORDS) - 1)]
        count = len(kind.__struct_fields__) + (source.number(-1, 1) if source.number(0, 9) == 0 else 0)
        return msgspec.msgpack.encode([kind.__name__, *(source.value() for _ in range(count))])

    def _send(self, source: Source, body: bytes) -> None:
        fds = [self._descriptor(source) for _ in range((0, 0, 0, 1, 1, 2)[source.number(0, 5)])]
        pipe = PIPES[source.number(0, len(PIPES) - 1)]
        try:
            match pipe:
                case "channel":
                    claimed = len(fds) if source.number(0, 4) else source.number(0, 3)
                    data = encode_frame(body, claimed, source.number(0, 1) and NOTE)
                    self._put(self.process.channel, data, fds)
                case "link":
                    self._put(self.process.link, wire.LINK_NUMBER.pack(source.number(0, 9)) + body, fds)
                case "belt":
                    self._put(self.belt, body, fds)
                case _:
                    self._put(self.end, body, fds)
        finally:
            close_all(fds)

    @staticmethod
    def _put(sock: socket.socket | None, data: bytes, fds: Sequence[int]) -> None:
        if sock is not None and data:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    @staticmethod
    def _descriptor(source: Source) -> int:
        if source.number(0, 1):
            return os.open(os.devnull, os.O_RDONLY)
        return socket.socket(source.number(1, 2), source.number(1, 2)).detach()

    def _write_on_board(self, source: Source) -> None:
        fd = self.cluster._runtime.boards.fd_of(os.geteuid())
        value = source.number(-(2**63), 2**63 - 1).to_bytes(8, "little", signed=True)
        os.pwrite(fd, value, 8 * source.number(0, 8 * board.ROW))

    def _take(self, source: Source) -> None:
        """Read what came, keep the listener and the ends of its belt, and drop the rest."""
        sock = (self.process.link, self.process.channel, self.belt)[source.number(0, 2)]
        if sock is None:
            return
        data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(64 * 4), socket.MSG_DONTWAIT)
        fds = strange.descriptors_in(ancillary)
        granted = [fd for fd in fds if _is_belt(fd)]
        if len(granted) >= 2 and b"Granted" in data:
            self._drop_belt()
            self.belt, self.end = (socket.socket(fileno=os.dup(fd)) for fd in granted[:2])
            with contextlib.suppress(OSError):
                self.belt.send(wire.encode(wire.Serve(source.number(1, 16))), socket.MSG_DONTWAIT)
        close_all(fds)

    def _connect(self, _: Source) -> None:
        if len(self._clients) < 50:
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(self.listener.getsockname())
            self._clients.append(client)

    def _shut(self, source: Source) -> None:
        socks = [sock for sock in (self.belt, self.end, self.process.channel, self.process.link) if sock]
        socks[source.number(0, len(socks) - 1)].shutdown(source.number(0, 2))

    async def _pass_time(self, source: Source) -> None:
        await pass_time((0.001, 0.025, 0.1, 1.5)[source.number(0, 3)])

    # --- what must hold ---------------------------------------------------------------------------------

    async def judge(self, *, dies_alone: bool) -> None:
        """As `dismiss`, and check that no other worker has lost anything."""
        await self.dismiss(dies_alone=dies_alone)
        assert self.good.is_ready
        assert await self.good.request("still there?", timeout=5) == "still there?"
        served = asyncio.get_running_loop().create_task(_served(self.listener))
        with socket.socket() as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, self.listener.getsockname())
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"served"
        served.cancel()
        assert self.complaints == []

    def close(self) -> None:
        self._close_clients()
        self._drop_belt()
        self.process.close()

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _drop_belt(self) -> None:
        for sock in (self.belt, self.end):
            if sock is not None:
                sock.close()
        self.belt = self.end = None


async def _served(listener: Any) -> None:
    """Check that every connection is served, earlier ones too."""
    loop = asyncio.get_running_loop()
    while True:
        conn, _ = await loop.sock_accept(listener)
        with conn, contextlib.suppress(OSError):
            conn.send(b"served")


def _is_belt(fd: int) -> bool:
    if not is_socket(fd):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.type == socket.SOCK_SEQPACKET


@contextlib.asynccontextmanager
async def court(policy: str) -> AsyncIterator[Court]:
    """A court for one history."""
    processes: list[FakeProcess] = []
    token = seam.current.set(FakeSystem(processes.append))
    before = open_fds()
    try:
        async with Cluster(Settings(exec="program.py"), policy=policy, grace=1.0) as cluster:
            good = cluster.fork()
            fake = FakeWorker(processes[0])
            fake.answer(_echo)
            listener = await fake.listen()
            await settle()
            on = Court(cluster, good, listener, processes)
            asyncio.get_running_loop().set_exception_handler(lambda _, what: on.complaints.append(what))
            await on.accuse()
            try:
                yield on
            finally:
                on.close()
                if on.process.status is None:
                    on.process.end(ExitStatus(code=9))
                await on.liar.wait()
                listener.close()
                fake.exit()
    finally:
        seam.current.reset(token)
    assert {n: w for n, w in open_fds().items() if before.get(n) != w} == {}


async def _echo(message: Any, handle: Any) -> Any:
    return message


def _listen_like(listener: socket.socket) -> wire.Listen:
    return wire.Listen(
        request=1,
        address=list(listener.getsockname()),
        family=int(listener.family),
        kind=int(listener.type),
        backlog=10,
    )


async def history(source: Source, policy: str, lies: Iterable[object], *, dies_alone: bool) -> None:
    """Run one whole history, with a lie for each of `lies`."""
    async with court(policy) as on:
        for _ in lies:
            await on.tell(source)
            if not on.liar.is_connected() and source.number(0, 3) == 0:
                await on.dismiss(dies_alone=dies_alone)
                await on.accuse()
        await on.judge(dies_alone=dies_alone)


class _First:
    """Takes the listener that was granted to it on the channel."""

    def number(self, least: int, most: int) -> int:
        return most and 1

    def value(self) -> Any:
        raise NotImplementedError

    def data(self) -> bytes:
        raise NotImplementedError
