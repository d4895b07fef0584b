"""Node's tests of `net` and `dgram` about listening: descriptors, paths, options, `reusePort`.

In Node they concern one process. Here they hold in a worker and, where it makes a difference, also under
plain Python, where `everycore.listen` makes an ordinary socket.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import everycore
from everycore import ConfigurationError, ExitStatus, Listening
from tests.conformance.node import node
from tests.kit import wait_gone
from tests.kit.traffic import Agent, Client, agents, is_refused
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"
#: A descriptor that is not open: new descriptors get the lowest free number.
NOT_OPEN = 1000


@contextlib.contextmanager
def bound(
    kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET, address: Any = (LOCAL, 0)
) -> Iterator[socket.socket]:
    """A bound socket of this process."""
    with socket.socket(family, kind) as sock:
        sock.bind(address)
        yield sock


# Descriptors


@node("test-dgram-create-socket-handle-fd")
async def test_dgram_create_socket_handle_fd(tmp_path, policy):
    """A UDP descriptor becomes a UDP socket; one that is closed, or TCP, is refused."""
    code = "everycore.listen(fd=fd, kind=socket.SOCK_DGRAM)"
    async with agents(tmp_path, policy=policy) as (_, worker):
        assert (await worker.fails(code, fd=NOT_OPEN)).errno == errno.EBADF
        with pytest.raises(OSError, match="descriptor") as refused:
            everycore.listen(fd=NOT_OPEN, kind=socket.SOCK_DGRAM)
        assert refused.value.errno == errno.EBADF
        with bound(socket.SOCK_STREAM) as stream:
            stream.listen()
            assert (await worker.fails(code, fd=stream.fileno())).errno == errno.EPROTOTYPE
            with pytest.raises(OSError, match="descriptor") as refused:
                everycore.listen(fd=stream.fileno(), kind=socket.SOCK_DGRAM)
            assert refused.value.errno == errno.EPROTOTYPE
        with bound(socket.SOCK_DGRAM) as datagram:
            await worker.do(f"sock = {code}", fd=datagram.fileno())
            assert await worker.get("[sock.type.name, sock.fileno() > 0]") == ["SOCK_DGRAM", True]
            with everycore.listen(fd=datagram.fileno(), kind=socket.SOCK_DGRAM) as own:
                assert own.type is socket.SOCK_DGRAM
                assert own.getsockname() == datagram.getsockname()


@node("test-dgram-bind-fd")
async def test_dgram_bind_fd(tmp_path, policy):
    """A socket made from a bound UDP descriptor has its address, and receives and sends."""
    loop = asyncio.get_running_loop()
    async with agents(tmp_path, policy=policy) as (_, worker):
        with bound(socket.SOCK_DGRAM) as given, bound(socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await worker.do(
                """
class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        self.transport.sendto(data.upper(), peer)
transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
    Answer, sock=everycore.listen(fd=fd, kind=socket.SOCK_DGRAM))
""",
                fd=given.fileno(),
            )
            assert tuple(await worker.get("transport.get_extra_info('sockname')")) == given.getsockname()
            for text in (b"one", b"two"):
                client.sendto(text, given.getsockname())
                data, peer = await within(loop.sock_recvfrom(client, 100))
                assert (data, peer) == (text.upper(), given.getsockname())


@node(
    "test-dgram-bind-fd-error",
    adapted="A descriptor on which this worker already listens gives EADDRINUSE, as a port does "
    "(Node: EEXIST); one of another kind gives OSError EPROTOTYPE (Node: a TypeError).",
)
async def test_dgram_bind_fd_error(tmp_path, policy):
    """One worker cannot take a descriptor twice, nor one that is not UDP.

    Adapted: the errors differ.
    """
    code = "everycore.listen(fd=fd, kind=socket.SOCK_DGRAM)"
    async with agents(tmp_path, policy=policy) as (_, worker):
        with bound(socket.SOCK_DGRAM) as given, bound(socket.SOCK_STREAM) as stream:
            await worker.do(f"sock = {code}", fd=given.fileno())
            assert (await worker.fails(code, fd=given.fileno())).errno == errno.EADDRINUSE
            stream.listen()
            assert (await worker.fails(code, fd=stream.fileno())).errno == errno.EPROTOTYPE


@node(
    "test-listen-fd-ebadf",
    adapted="The errno tells what is wrong: EBADF for a descriptor that is not open, ENOTSOCK for one "
    "that is not a socket. Node reports EINVAL for both.",
)
async def test_listen_fd_ebadf(tmp_path, policy):
    """A descriptor that is not a socket, or not open, in a worker and alone.

    Adapted: there are two errors instead of one.
    """
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        with tempfile.TemporaryFile() as file:
            for fd, number in ((NOT_OPEN, errno.EBADF), (file.fileno(), errno.ENOTSOCK)):
                assert (await worker.fails("everycore.listen(fd=fd)", fd=fd)).errno == number
                with pytest.raises(OSError, match="descriptor") as refused:
                    everycore.listen(fd=fd)
                assert refused.value.errno == number
        assert cluster.snapshot().listeners == ()


@node("test-listen-fd-server")
async def test_listen_fd_server(tmp_path):
    """A worker serves a listening socket that it inherited; the primary has closed its own."""
    sock = socket.create_server((LOCAL, 0))
    address = sock.getsockname()
    async with agents(tmp_path, 0) as (cluster,):
        with sock:
            cluster.setup_primary(pass_fds=[sock.fileno()])
            worker = Agent(cluster.fork())
            fd = sock.fileno()
        await worker.do(
            "server = await asyncio.start_server(greet, sock=socket.socket(fileno=fd))\n"
            "assert server.sockets[0].fileno() == fd",
            fd=fd,
        )
        assert cluster.snapshot().listeners == ()
        for _ in range(2):
            client = await Client.connect(address)
            assert client.worker == worker.id
            await client.close()
        worker.worker.kill()
        assert await within(worker.worker.wait()) == ExitStatus(code=0)
        assert await is_refused(address)


#: A process that outlives the primary: it serves its inherited descriptor, argument 1.
DETACHED = """
import asyncio, os, socket, sys
import everycore

async def hello(reader, writer):
    writer.write(b"hello from child\\n")
    writer.close()

async def main():
    assert not everycore.is_worker
    server = await asyncio.start_server(hello, sock=everycore.listen(fd=int(sys.argv[1])))
    await server.serve_forever()

everycore.run(main())
"""

#: Listens, hands the socket to DETACHED, prints the address, and ends; with a cluster of its own around it.
LEAVING = """
import asyncio, os, socket, subprocess, sys
import everycore

async def main():
    if everycore.is_worker:
        await asyncio.Event().wait()
    async with everycore.Cluster() as cluster:
        worker = cluster.fork()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            stdio = None if sys.argv[2] == "inherit" else subprocess.DEVNULL
            child = subprocess.Popen(
                [sys.executable, sys.argv[1], str(sock.fileno())],
                stdin=stdio, stdout=stdio, stderr=stdio, pass_fds=[sock.fileno()], start_new_session=True,
            )
            print("child", child.pid, sock.getsockname()[1], flush=True)
        child.returncode = 0  # not waited for

everycore.run(main())
"""


def outlives_its_parent(start_program: Any, folder: Path, stdio: str) -> None:
    child = folder / "child.py"
    child.write_text(DETACHED)
    parent = start_program(LEAVING, str(child), stdio)
    pid, port = map(int, parent.expect(r"child (\d+) (\d+)").groups())
    try:
        if stdio == "null":
            assert parent.wait() == 0, parent.stderr
        else:  # a process that inherited the pipes keeps them open
            wait_gone([parent.pid])
        with socket.create_connection((LOCAL, port), timeout=10) as client:
            assert client.makefile().readline() == "hello from child\n"
    finally:
        os.kill(pid, signal.SIGKILL)
        assert wait_gone([pid]) == []
    assert parent.wait() == 0, parent.stderr


@node(
    "test-listen-fd-detached",
    adapted="A worker ends with its primary. A process that should outlive it is started with "
    "`subprocess`, in a session of its own, with the socket in `pass_fds`; there "
    "`everycore.listen(fd=)` takes the inherited descriptor.",
)
def test_listen_fd_detached(start_program, tmp_path):
    """A process that was given a primary's listening socket goes on serving it after the primary has ended.

    Adapted: it is an ordinary process, a child of the primary.
    """
    outlives_its_parent(start_program, tmp_path, "null")


@node(
    "test-listen-fd-detached-inherit",
    adapted="Like test-listen-fd-detached, with the standard streams of the primary.",
)
def test_listen_fd_detached_inherit(start_program, tmp_path):
    """The same for a process that keeps the primary's standard streams."""
    outlives_its_parent(start_program, tmp_path, "inherit")


@node(
    "test-net-server-listen-handle",
    adapted="A handle is a socket: `sock=` of `start_server` uses it as it is, without the primary. "
    "`{fd}` is `everycore.listen(fd=)`, with a descriptor of the primary. A file gives "
    "ENOTSOCK (Node: EINVAL).",
)
async def test_net_server_listen_handle(tmp_path, policy):
    """Bound sockets, TCP and unix, can listen: as sockets, and by descriptor. A file cannot.

    Adapted: Node's internal `{handle}` and `{_handle}` are sockets here.
    """
    path = str(tmp_path / "pipe")
    async with agents(tmp_path, policy=policy) as (_, worker):
        await worker.do(
            "own = socket.socket(); own.bind(('127.0.0.1', 0)); address = own.getsockname()\n"
            "server = await asyncio.start_server(greet, sock=own)"
        )
        await worker.do(
            "own = socket.socket(socket.AF_UNIX); own.bind(path)\n"
            "unix = await asyncio.start_unix_server(greet, sock=own)",
            path=path + "-own",
        )
        addresses = [await worker.get("address"), path + "-own"]
        for client in [await Client.connect(address) for address in addresses]:
            assert client.worker == worker.id
            await client.close()
        with (
            bound(socket.SOCK_STREAM) as tcp,
            bound(socket.SOCK_STREAM, socket.AF_UNIX, path) as unix,
            tempfile.TemporaryFile() as file,
        ):
            for sock in (tcp, unix):
                code = "server = await asyncio.start_server(greet, sock=everycore.listen(fd=fd))"
                await worker.listens(code, fd=sock.fileno())
                client = await Client.connect(sock.getsockname())
                assert client.worker == worker.id
                await client.close()
                await worker.do("server.close()")
            error = await worker.fails("everycore.listen(fd=fd)", fd=file.fileno())
            assert error.errno == errno.ENOTSOCK
    assert os.path.lexists(path)  # noqa: ASYNC240 - not ours to remove


# Paths and options


@node(
    "test-net-server-listen-path",
    adapted="The path may also be bytes or a `pathlib.Path`; `readableAll` and `writableAll` are `mode=`.",
)
async def test_net_server_listen_path(tmp_path, policy):
    """A server accepts each form of a unix path, and its file is removed with the server.

    Adapted: the forms are Python's.
    """
    async with agents(tmp_path, policy=policy) as (_, worker):
        forms = {
            "str": "everycore.listen(path)",
            "bytes": "everycore.listen(os.fsencode(path))",
            "path": "everycore.listen(__import__('pathlib').Path(path))",
            "mode": "everycore.listen(path, mode=0o666)",
        }
        for name, form in forms.items():
            path = str(tmp_path / name)
            await worker.listens(f"server = await asyncio.start_unix_server(greet, sock={form})", path=path)
            await check_path(path, worker.id)
            if name == "mode":
                assert os.stat(path).st_mode & 0o777 == 0o666
            await worker.do("server.close(); await server.wait_closed()")
        path = str(tmp_path / "loop")
        await worker.listens("server = await asyncio.start_unix_server(greet, path)", path=path)
        await check_path(path, worker.id)
    assert not {*forms, "loop"} & set(os.listdir(tmp_path))


async def check_path(path: str, worker: int) -> None:
    client = await Client.connect(path)
    assert client.worker == worker
    await client.close()


@node(
    "test-net-server-listen-options",
    adapted="An address is a tuple (host, port) or a path: a port is an int, never a str or None, and "
    "`listen` always needs one. A wrong address is a ConfigurationError, which is a "
    "ValueError.",
)
async def test_net_server_listen_options(tmp_path, policy):
    """Each form of an address, and values that are not addresses, in a worker and alone.

    Adapted: the forms are Python's.
    """
    async with agents(tmp_path, policy=policy) as (_, worker):
        for form in ("('', 0)", "('127.0.0.1', 0)", "(None, 0)", "('::1', 0, 0, 0)"):
            assert await worker.get(f"everycore.listen({form}).getsockname()[1]") > 0
            with eval(f"everycore.listen({form})") as sock:
                assert sock.getsockname()[1] > 0
        wrong = [
            *(
                f"('127.0.0.1', {port})"
                for port in ("-1", "65536", "123.456", "float('nan')", "False", "None")
            ),
            *("", "False", "True", "fd=True", "'', fd=-1", "fd='1'", "-1", "{}", "('127.0.0.1',)", "''"),
            *("exclusive=True", "('127.0.0.1', -1), fd=3"),
        ]
        for form in wrong:
            assert "ConfigurationError" in (await worker.fails(f"everycore.listen({form})")).classes, form
            with pytest.raises(ConfigurationError):
                eval(f"everycore.listen({form})")


@node("test-net-listen-ipv6only")
async def test_net_listen_ipv6only(tmp_path, policy):
    """Every IPv6 address and no IPv4 address: a connection to the same port there is refused."""
    async with agents(tmp_path, policy=policy) as (_, worker):
        # Bound, not listening: no other process can have that port either.
        with bound(socket.SOCK_STREAM) as taken:
            port = taken.getsockname()[1]
            await worker.listens("sock = everycore.listen(('::', port), v6only=True)", port=port)
            await worker.do("server = await asyncio.start_server(greet, sock=sock)")
            client = await Client.connect(("::1", port))
            assert client.worker == worker.id
            await client.close()
            assert await is_refused((LOCAL, port))


# reusePort


@node("test-net-reuseport")
async def test_net_reuseport(tmp_path, policy):
    """With `reuse_port` one process listens twice on one port, IPv4 or IPv6; in a worker too."""
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        diary = Diary(cluster)
        for host in (LOCAL, "::1"):
            await worker.do(
                """
one = await asyncio.start_server(greet, host, 0, reuse_port=True)
port = one.sockets[0].getsockname()[1]
two = await asyncio.start_server(greet, host, port, reuse_port=True)
assert two.sockets[0].getsockname() == one.sockets[0].getsockname()
one.close()
""",
                host=host,
            )
            client = await Client.connect((host, await worker.get("port")))
            assert client.worker == worker.id
            await client.close()
            await worker.do("two.close()")
        assert diary.all(Listening) == []


@node("test-dgram-reuseport")
async def test_dgram_reuseport(tmp_path, policy):
    """The same for UDP."""
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        await worker.do("""
async def bind(port):
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", port), reuse_port=True)
    return transport
one = await bind(0)
two = await bind(one.get_extra_info("sockname")[1])
assert two.get_extra_info("sockname") == one.get_extra_info("sockname")
one.close()
two.close()
""")
        assert cluster.snapshot().listeners == ()


# The number of connections


@node(
    "test-net-server-drop-connections",
    adapted="`maxConnections` and the event 'drop' are `everycore.limit_connections(server, 1, on_drop=)`,"
    " whose function is called with the peer's address.",
)
async def test_net_server_drop_connections(tmp_path, policy):
    """A server limited to one connection closes the second one, and reports whose it was.

    Adapted: a function reports it, not an event.
    """
    async with agents(tmp_path, policy=policy) as (_, worker):
        port = await worker.serve()
        await worker.do(
            "dropped = []\nawaited = asyncio.Event()\n"
            "def drop(peer):\n    dropped.append(peer)\n    awaited.set()\n"
            "everycore.limit_connections(server, 1, on_drop=drop)"
        )
        first = await Client.connect((LOCAL, port))
        second = await Client.open((LOCAL, port))
        assert await second.ended() == b""
        await within(worker.do("await awaited.wait()"))
        assert await worker.get("dropped") == [list(second.writer.get_extra_info("sockname"))]
        await second.close()
        assert await first.echo("still there") == "still there"
        await first.close()
