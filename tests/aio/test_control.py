"""The control socket of a primary and its clients. The test decides what its desk answers."""

import asyncio
import contextlib
import json
import os
import socket

import pytest

from everycore.aio import control as server_module
from everycore.aio.control import STUCK, ControlServer
from everycore.aio.subscriptions import Subscription
from everycore.core import control
from everycore.core.control import MOST_CLIENTS, ControlEvent
from everycore.errors import ControlError
from everycore.system import strange
from everycore.system.control_sockets import PeerCredentials, listen_at
from everycore.testing import VirtualTimeLoop
from tests.kit import pass_time, turn
from tests.kit.trouble import no_descriptors

STATUS = b'{"v":1,"op":"status"}\n'
RELOAD = b'{"v":1,"op":"reload"}\n'
FOLLOW = b'{"v":1,"op":"events","follow":true}\n'


class Desk:
    """Answers `status` at once with its `result`, and other requests when `done` is set."""

    def __init__(self):
        self.result: object = {"size": 2}
        self.asked: list[control.Request] = []
        self.followers = []
        self.done: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def answer(self, request, tell):
        self.asked.append(request)
        if isinstance(request, control.AskStatus):
            return self.result
        return await asyncio.shield(self.done)

    def follow(self, tell):
        self.followers.append(tell)
        return Subscription(lambda: self.followers.remove(tell))

    def end(self):
        if not self.done.done():
            self.done.set_result("ended")

    def tell(self, text=None):
        for follower in tuple(self.followers):
            follower(ControlEvent(seq=1, at=0.0, event="ready", text=text))


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "control.sock")


@contextlib.asynccontextmanager
async def serving(path):
    desk = Desk()
    server = ControlServer(listen_at(path), desk)
    try:
        yield desk
    finally:
        await server.close()
        assert not os.path.lexists(path)  # noqa: ASYNC240 - it is over


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def line(self):
        line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, data=STATUS):
        self.send(data)
        return await self.line()


@contextlib.asynccontextmanager
async def connected(path):
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# Requests and replies


async def test_one_request_has_one_reply_and_then_the_next(path):
    async with serving(path) as desk, connected(path) as client:
        assert await client.ask() == {"v": 1, "ok": True, "result": {"size": 2}}
        client.send(STATUS + RELOAD + STATUS)  # behind one another
        assert (await client.line())["ok"]
        await turn()
        assert len(desk.asked) == 3  # the last one waits until the reload is done
        desk.done.set_result({"generation": 1})
        assert (await client.line())["result"] == {"generation": 1}
        assert (await client.line())["result"] == {"size": 2}


async def test_a_client_that_will_send_no_more_has_its_reply(path):
    """`echo ... | nc -U` is such a client."""
    async with serving(path) as desk, connected(path) as client:
        client.send(RELOAD)
        client.writer.write_eof()
        while not desk.asked:
            await turn()
        desk.done.set_result(None)
        assert (await client.line())["ok"]
        assert await client.line() is None


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n", b"\0\n", b"x" * 70_000, b"x" * 70_000 + b"\n" + STATUS]
)
async def test_a_malformed_request_ends_the_connection_with_one_sentence(path, sent):
    async with serving(path) as desk, connected(path) as client:
        client.send(sent)
        assert (await client.line())["error"]["kind"] == "bad_request"
        with contextlib.suppress(ConnectionError):
            assert await client.line() is None
        assert desk.asked == []


async def test_a_refusal_of_the_desk_is_told_and_the_connection_goes_on(path):
    async with serving(path) as desk, connected(path) as client:
        desk.done.set_exception(ControlError("failed", "no"))
        assert await client.ask(RELOAD) == {"v": 1, "ok": False, "error": {"kind": "failed", "text": "no"}}
        assert (await client.ask())["ok"]


async def test_a_fault_in_everycore_is_logged(path, caplog):
    async with serving(path) as desk, connected(path) as client:
        desk.done.set_exception(ZeroDivisionError())
        assert (await client.ask(RELOAD))["error"]["kind"] == "internal"
        assert "ZeroDivisionError" in caplog.text


async def test_a_follower_gets_events_until_the_reply(path):
    async with serving(path) as desk, connected(path) as client:
        client.send(b'{"v":1,"op":"reload","follow":true}\n')
        while not desk.followers:
            await turn()
        desk.tell("one")
        assert (await client.line())["event"] == {"seq": 1, "at": 0.0, "event": "ready", "text": "one"}
        desk.done.set_result(None)
        assert (await client.line())["ok"]
        assert desk.followers == []


async def test_at_the_end_waiting_clients_get_an_answer(path):
    async with connected_to_the_end(path) as client:
        assert (await client.line())["result"] == "ended"
        assert await client.line() is None


@contextlib.asynccontextmanager
async def connected_to_the_end(path):
    async with serving(path) as desk:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(RELOAD)
        while not desk.asked:
            await turn()
    yield Client(reader, writer)
    writer.close()


# Clients that do harm


async def test_a_thousand_silent_clients_keep_no_other_out(path):
    async with serving(path) as desk:
        silent = []
        try:
            for _ in range(1000):
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                silent.append(sock)
                while True:
                    try:
                        sock.connect(path)
                        break
                    except BlockingIOError:  # the backlog is full: they are faster than the loop
                        await turn()
            async with connected(path) as client:
                assert (await client.ask())["ok"]
            assert len(desk.asked) == 1
            assert sum(not _is_open(sock) for sock in silent) >= 1000 - MOST_CLIENTS
        finally:
            for sock in silent:
                sock.close()


def _is_open(sock):
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True


async def test_a_client_that_waits_keeps_its_place(path):
    async with serving(path) as desk, contextlib.AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(connected(path)) for _ in range(MOST_CLIENTS)]
        for client in waiting:
            client.send(RELOAD)
        while len(desk.asked) < MOST_CLIENTS:
            await turn()
        async with connected(path) as late:
            assert (await late.line())["error"]["kind"] == "busy"
        waiting[0].writer.transport.abort()  # it is gone, and keeps no place
        await turn()
        async with connected(path) as late:
            assert (await late.ask())["ok"]
        desk.done.set_result(None)
        for client in waiting[1:]:
            assert (await client.line())["ok"]


async def test_one_that_reads_nothing_is_dropped(path):
    async with serving(path) as desk, connected(path) as other:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(FOLLOW)
            while not desk.followers:
                await turn()
            for _ in range(10_000):  # at once
                desk.tell("x" * 1000)
                if not desk.followers:
                    break
                await turn()
            await turn()
            assert desk.followers == []
            assert (await other.ask())["ok"]


async def test_one_that_reads_a_little_and_no_more_is_dropped_after_a_while(path):
    async with serving(path) as desk:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(FOLLOW)
            while not desk.followers:
                await turn()
            desk.tell("x" * 500_000)
            await pass_time(STUCK - 0.1)
            assert len(desk.followers) == 1
            await pass_time(0.2)
            assert desk.followers == []


async def test_a_long_reply_comes_whole(path):
    async with serving(path) as desk, connected(path) as client:
        desk.result = "x" * 900_000
        assert len((await client.ask())["result"]) == 900_000


async def test_another_user_is_told_so_and_has_nothing(path, monkeypatch):
    monkeypatch.setattr(server_module, "credentials", lambda _: PeerCredentials(1, os.geteuid() + 1))
    async with serving(path) as desk, connected(path) as client:
        assert (await client.line())["error"]["kind"] == "forbidden"
        assert await client.line() is None
        assert desk.asked == []


@pytest.mark.parametrize("uid", [0, 1], ids=["of this user", "of another"])
async def test_descriptors_that_come_are_closed_without_waiting(path, monkeypatch, uid):
    """As for workers: a connection that lingers would make the primary wait."""
    monkeypatch.setattr(server_module, "credentials", lambda _: PeerCredentials(1, os.geteuid() + uid))
    closed = []
    real = strange.close_strange

    def close_strange(fds):
        closed.extend(fds)
        real(fds)

    for module in (server_module, strange):
        monkeypatch.setattr(module, "close_strange", close_strange)
    reading, writing = os.pipe()
    async with serving(path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            socket.send_fds(sock, [STATUS], [writing])
            os.close(writing)
            for _ in range(5):
                await turn()
        assert len(closed) == 1
        assert os.read(reading, 1) == b""
    os.close(reading)


async def test_without_descriptors_one_is_answered_all_the_same(path):
    async with serving(path):
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            with no_descriptors():
                for sock in (one, other):
                    sock.setblocking(False)
                    sock.connect(path)
                    sock.send(STATUS)
                await pass_time(1.0)
                assert json.loads(one.recv(1000))["ok"]
                with pytest.raises(BlockingIOError):
                    other.recv(1000)
                one.close()
                await pass_time(1.0)
                assert json.loads(other.recv(1000))["ok"]


async def test_a_fork_keeps_nothing_of_it(path):
    async with serving(path) as desk, connected(path) as client:
        assert (await client.ask())["ok"]
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            theirs.send(b"x")  # what is to be closed in a child is closed by now
            theirs.recv(1)
            os._exit(0)
        try:
            theirs.close()
            assert await asyncio.to_thread(ours.recv, 1) == b"x"
            assert len(desk.asked) == 1
            assert (await client.ask())["ok"]  # ours is as it was
            listeners = [path for path in _unix_sockets(child) if path]
            assert listeners == []
        finally:
            ours.close()
            os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once


def _unix_sockets(pid):
    """The paths of the listening unix sockets of a process."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    paths = {row[6]: row[7] for row in rows if len(row) > 7 and int(row[3], 16) & 0x10000}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            yield paths.get(target.removeprefix("socket:[").removesuffix("]"))
