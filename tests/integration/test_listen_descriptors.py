"""`listen(fd=)`, rule 1: a number is a descriptor of the primary; and impossible arguments."""

import contextlib
import errno
import os
import socket
import tempfile

import pytest

import everycore
from everycore import ConfigurationError, Listening
from tests.kit.listeners import listening_sockets
from tests.kit.traffic import Client, agents, closing
from tests.kit.workers import Diary

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


# Rule 1: listen(fd=) is about the primary's descriptors


async def test_a_descriptor_of_the_primary_is_listened_on_by_all(tmp_path):
    with socket.socket() as bound:
        bound.bind((LOCAL, 0))
        async with agents(tmp_path, 2) as (cluster, first, second):
            diary = Diary(cluster)
            for worker in (first, second):
                await worker.listens("sock = everycore.listen(fd=fd)", fd=bound.fileno())
                await worker.do("server = await asyncio.start_server(greet, sock=sock)")
                assert tuple(await worker.get("sock.getsockname()")) == bound.getsockname()
            async with closing([await Client.connect(bound.getsockname()) for _ in range(4)]) as clients:
                assert {client.worker for client in clients} == {first.id, second.id}
            event = await diary.until(Listening)
            assert (event.address, event.fd) == (bound.getsockname(), bound.fileno())


async def test_a_unix_socket_of_the_primary(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        async with agents(tmp_path) as (_, worker):
            await worker.do("sock = everycore.listen(fd=fd)", fd=bound.fileno())
            await worker.do("server = await asyncio.start_server(greet, sock=sock)")
            assert await worker.get("[sock.family.name, sock.getsockname()]") == ["AF_UNIX", path]
            await (await Client.connect(path)).close()
    assert (tmp_path / "s").exists()  # it is not everycore's file


@contextlib.contextmanager
def bad_descriptor(kind):
    """A descriptor that cannot listen, and the errno for it."""
    with contextlib.ExitStack() as stack:
        match kind:
            case "closed":
                sock = socket.socket()
                fd = sock.fileno()
                sock.close()
                yield fd, errno.EBADF
            case "negative":
                yield -1, errno.EBADF
            case "huge":
                yield 2**40, errno.EBADF
            case "file":
                yield stack.enter_context(tempfile.TemporaryFile()).fileno(), errno.ENOTSOCK
            case "pipe":
                reading, writing = os.pipe()
                stack.callback(os.close, reading)
                stack.callback(os.close, writing)
                yield reading, errno.ENOTSOCK
            case "datagram":
                sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.bind((LOCAL, 0))
                yield sock.fileno(), errno.EPROTOTYPE
            case "connected":
                server = stack.enter_context(socket.create_server((LOCAL, 0)))
                sock = stack.enter_context(socket.create_connection(server.getsockname()))
                yield sock.fileno(), errno.EISCONN
            case "pair":
                one, two = socket.socketpair()
                stack.callback(two.close)
                yield stack.enter_context(one).fileno(), errno.EISCONN
            case "unbound":
                yield stack.enter_context(socket.socket()).fileno(), errno.EDESTADDRREQ
            case "unbound-unix":
                yield stack.enter_context(socket.socket(socket.AF_UNIX)).fileno(), errno.EDESTADDRREQ


BAD = [
    "closed",
    "negative",
    "huge",
    "file",
    "pipe",
    "datagram",
    "connected",
    "pair",
    "unbound",
    "unbound-unix",
]


@pytest.mark.parametrize("where", ["worker", "alone"])
async def test_a_descriptor_that_cannot_be_listened_on_is_refused_with_the_reason(tmp_path, where):
    """Nothing stays open for it either: the kit would find it."""
    async with agents(tmp_path, 1 if where == "worker" else 0) as (cluster, *workers):
        for kind in BAD:
            with bad_descriptor(kind) as (fd, number):
                if where == "worker":
                    error = await workers[0].fails("everycore.listen(fd=fd)", fd=fd)
                    found, text = error.errno, error.text
                else:
                    with pytest.raises(OSError, match="descriptor") as caught:
                        everycore.listen(fd=fd)
                    found, text = caught.value.errno, str(caught.value)
                assert found == number, kind
                assert f"descriptor {fd}" in text, kind
        assert cluster.snapshot().listeners == ()


async def test_no_descriptor_of_everycores_own_can_be_listened_on(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        own = sorted(map(int, set(os.listdir("/proc/self/fd")) - before))
        listeners = listening_sockets(port)
        for duplicate in listeners:
            duplicate.close()
        assert len(listeners) == 1
        refused = await worker.get(
            """[
    fd for fd in own
    for raised in [await perform(("eval", "everycore.listen(fd=%d)" % fd, {}), None)]
    if raised[0] == "raised"
]""",
            own=own,
        )
        assert refused == own
        assert await worker.get("server.is_serving()")
        await (await Client.connect((LOCAL, port))).close()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"address": (LOCAL, 0), "fd": 3},
        {"address": LOCAL + ":0", "fd": 3},
        {"fd": "3"},
        {"fd": True},
        {"fd": 3.0},
        {"address": ""},
        {"address": (LOCAL,)},
        {"address": (LOCAL, 0, 0)},
        {"address": (LOCAL, "http")},
        {"address": (LOCAL, 65536)},
        {"address": (LOCAL, -1)},
        {"address": (LOCAL, True)},
        {"address": 8000},
        {"address": (LOCAL, 0), "backlog": -1},
        {"address": (LOCAL, 0), "backlog": "many"},
        {"address": (LOCAL, 0), "backlog": 1.5},
        {"address": (LOCAL, 0), "timeout": -1},
        {"address": (LOCAL, 0), "timeout": float("nan")},
        {"address": (LOCAL, 0), "kind": "stream"},
        {"address": "/tmp/x", "mode": 0o1777},
        {"address": "/tmp/x", "mode": "rw"},
        {"address": "/tmp/x", "family": "unix"},
        {"address": "/tmp/a\0b"},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant_are_refused_at_the_call(arguments):
    with pytest.raises(ConfigurationError):
        everycore.listen(**arguments)


async def test_a_kind_without_a_listener(tmp_path):
    call = "everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_RAW)"
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:0: ") as alone:
        everycore.listen((LOCAL, 0), kind=socket.SOCK_RAW)
    assert alone.value.errno == errno.EOPNOTSUPP
    async with agents(tmp_path) as (_, worker):
        assert (await worker.fails(call)).errno == errno.EOPNOTSUPP


async def test_the_same_in_a_worker_and_it_stays_a_worker(tmp_path):
    async with agents(tmp_path) as (_, worker):
        for call in (
            "('127.0.0.1', 0), fd=3",
            "",
            "('127.0.0.1', 0), kind='stream'",
            "('127.0.0.1', 0), backlog='x'",
            "'/tmp/x', mode='rw'",
        ):
            error = await worker.fails(f"everycore.listen({call})")
            assert error.classes[0] == "ConfigurationError", call
            assert "ValueError" in error.classes
        error = await worker.fails("everycore.listen(('127.0.0.1', 0), backlog=2**31)")
        assert error.classes[0] == "OverflowError"
        error = await worker.fails("everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_RAW)")
        assert "OSError" in error.classes
        await worker.do("everycore.listen(('127.0.0.1', 0)).close()")
