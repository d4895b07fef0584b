"""What listening in a worker gives: addresses, ports, errors."""

import asyncio
import errno
import socket

import pytest

from everycore import Cluster, ExitStatus, Listening, Settings
from tests.conformance.node import node
from tests.kit.listeners import backlog_of, listening_sockets
from tests.kit.ports import first_ordinary_port, free_port
from tests.kit.traffic import Agent, Client, agents, answers, leaves, servers
from tests.kit.trouble import no_descriptors, ordinary_user
from tests.kit.workers import Diary, LogLines, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"
SERVE = "server = await asyncio.start_server(greet, '127.0.0.1', port)"


# Errors


@node(
    "test-cluster-accept-fail",
    adapted="accept() fails because the process is out of descriptors; the connection waits in the "
    "backlog and is served later, where Node drops it.",
)
async def test_cluster_accept_fail(tmp_path):
    """Node's test gives its primary an error in place of a connection; here the kernel causes a real one."""
    async with servers(tmp_path, 1, policy="round_robin") as (_, (worker,), address):
        loop = asyncio.get_running_loop()
        with socket.socket() as sock, LogLines() as log:
            sock.setblocking(False)
            with no_descriptors():
                await loop.sock_connect(sock, address)
                await log.until("accept on")
                assert await worker.get("ID") == worker.id  # it notices nothing
            assert await within(loop.sock_recv(sock, 10)) == b"%d\n" % worker.id
        await answers(address, worker)
        await leaves(worker)


async def a_privileged_port_is_refused(folder, policy):
    if first_ordinary_port() <= 42:
        pytest.skip("no port is privileged here")
    async with agents(folder, policy=policy) as (_, worker):
        await worker.get("0")
        with ordinary_user():
            error = await worker.fails(SERVE, port=42)
        assert (error.classes[0], error.errno) == ("PermissionError", errno.EACCES)
        await leaves(worker)


@node("test-cluster-bind-privileged-port")
async def test_cluster_bind_privileged_port(tmp_path):
    await a_privileged_port_is_refused(tmp_path, "round_robin")


@node("test-cluster-shared-handle-bind-privileged-port")
async def test_cluster_shared_handle_bind_privileged_port(tmp_path):
    await a_privileged_port_is_refused(tmp_path, "shared")


@node("test-cluster-shared-handle-bind-error")
async def test_cluster_shared_handle_bind_error(tmp_path):
    with socket.create_server((LOCAL, 0)) as taken:
        async with agents(tmp_path, policy="shared") as (cluster, worker):
            error = await worker.fails(SERVE, port=taken.getsockname()[1])
            assert error.errno == errno.EADDRINUSE
            assert cluster.snapshot().listeners == ()
            await leaves(worker)


@node("test-cluster-bind-twice")
def test_cluster_bind_twice(start_program, policy):
    source = f"""
    import asyncio, errno
    import everycore

    async def main():
        async with everycore.Cluster(policy={policy!r}) as cluster:
            worker = cluster.fork()
            async for message in worker.messages():
                print(message.message)
            print(await worker.wait())

    async def work():
        me = everycore.current_worker()
        try:
            server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", {free_port()})
        except OSError as error:
            await me.send(errno.errorcode[error.errno])
        else:
            await me.send("READY")
            await server.serve_forever()

    everycore.run(work() if everycore.is_worker else main())
    """
    first = start_program(source)
    first.expect("^READY$")
    second = start_program(source)
    second.expect("^EADDRINUSE$")
    second.expect("^exit status 0$")
    assert second.wait() == 0
    assert first.is_running
    assert first.finish() == 0


@node("test-cluster-eaddrinuse")
async def test_cluster_eaddrinuse(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (_, worker):
        with socket.create_server((LOCAL, 0)) as taken:
            address = taken.getsockname()
            assert (await worker.fails(SERVE, port=address[1])).errno == errno.EADDRINUSE
        await worker.do(SERVE, port=address[1])
        await answers(address, worker)


@node("test-cluster-eaccess")
async def test_cluster_eaccess(tmp_path, policy):
    """A child of the worker uses the path."""
    source = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(sys.argv[1])
    sock.listen()
    print("listening", flush=True)
    sys.stdin.read()
"""
    async with agents(tmp_path, policy=policy) as (_, worker):
        await worker.do(
            "import subprocess\n"
            "child = subprocess.Popen([sys.executable, '-c', source, path], stdin=-1, stdout=-1)\n"
            "child.stdout.readline()",
            source=source,
            path=str(tmp_path / "socket"),
        )
        error = await worker.fails("await asyncio.start_unix_server(greet, path)")
        assert error.errno == errno.EADDRINUSE
        await worker.do("child.communicate()")
        assert await worker.get("child.returncode") == 0
        await leaves(worker)


# Ports and addresses


@node("test-cluster-net-listen")
async def test_cluster_net_listen(tmp_path, policy):
    """Without a port, any is used; the program may end right there."""
    source = """
    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, port=0)
        assert all(sock.getsockname()[1] > 0 for sock in server.sockets)
        sys.exit()
    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        assert await within(cluster.fork().wait()) == ExitStatus(code=0)


@node("test-cluster-net-listen-backlog")
async def test_cluster_net_listen_backlog(tmp_path):
    async with agents(tmp_path, policy="round_robin") as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, '127.0.0.1', 0, backlog=7)")
        (listener,) = listening_sockets(await worker.get("server.sockets[0].getsockname()[1]"))
        with listener:
            assert backlog_of(listener) == 7


@node(
    "test-cluster-net-listen-ipv6only-false",
    adapted="asyncio makes its IPv6 listeners IPv6-only; `everycore.listen(..., v6only=False)` serves "
    "both families at once.",
)
async def test_cluster_net_listen_ipv6only_false(tmp_path, policy):
    """In Node "::" covers both families by default; in Python a program must ask for that."""
    async with agents(tmp_path, 3, policy=policy) as (cluster, *workers):
        diary = Diary(cluster)
        for worker in workers:
            await worker.do(
                "sock = everycore.listen(('::', 0), v6only=False)\n"
                "server = await asyncio.start_server(greet, sock=sock)"
            )
        await diary.until(Listening, count=3)
        heard = {(event.family, event.kind, event.address) for event in diary.all(Listening)}
        ((family, kind, (host, port, *_)),) = heard
        assert (family, kind, host) == (socket.AF_INET6, socket.SOCK_STREAM, "::")
        for address in (LOCAL, "::1"):
            await (await Client.connect((address, port))).close()


@node("test-cluster-net-listen-ipv6only-rr")
async def test_cluster_net_listen_ipv6only_rr(tmp_path):
    async with agents(tmp_path, 3, policy="round_robin") as (cluster, *workers):
        diary = Diary(cluster)
        for worker in workers:
            await worker.do("server = await asyncio.start_server(greet, '::', 0)")
        await diary.until(Listening, count=3)
        ((host, port, *_),) = {event.address for event in diary.all(Listening)}
        assert host == "::"
        await (await Client.connect(("::1", port))).close()
        with socket.create_server(("0.0.0.0", port)):
            pass


@node("test-cluster-child-index-net")
async def test_cluster_child_index_net(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        start = "server_{} = await asyncio.start_server(greet, '127.0.0.1', 0)"
        await worker.do(start.format(1) + "\n" + start.format(2))
        await worker.do("server_1.close()\n" + start.format(3))
        addresses = await worker.get("[s.sockets[0].getsockname() for s in (server_2, server_3)]")
        assert len(cluster.snapshot().listeners) == 2
        for address in addresses:
            await answers(address, worker)
        await leaves(worker)


@node("test-cluster-child-index-dgram")
async def test_cluster_child_index_dgram(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        bind = (
            "end_{}, _ = await asyncio.get_running_loop().create_datagram_endpoint("
            "asyncio.DatagramProtocol, local_addr=('127.0.0.1', 0))"
        )
        await worker.do(bind.format(1) + "\n" + bind.format(2))
        await worker.do("end_1.close()\n" + bind.format(3))
        ports = await worker.get("[end.get_extra_info('sockname')[1] for end in (end_2, end_3)]")
        assert len(set(ports)) == 2
        assert {listener.address[1] for listener in cluster.snapshot().listeners} >= set(ports)
        await leaves(worker)


@node("test-cluster-server-restart-none")
async def test_cluster_server_restart_none(tmp_path):
    async with servers(tmp_path, 1, policy="shared") as (cluster, (first,), address):
        second = Agent(cluster.fork())
        for _ in range(2):
            assert await second.serve() == address[1]
            await second.do("server.close(); await server.wait_closed()")
        await leaves(second)
        await answers(address, first)
        await leaves(first)
