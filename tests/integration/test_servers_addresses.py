"""Servers of asyncio in workers: hosts, families and ports, and refusals as without a cluster."""

import asyncio
import errno
import os
import socket

import pytest

from everycore import Listening
from tests.kit.ports import first_ordinary_port, free_port
from tests.kit.traffic import Client, agents, closing, is_refused
from tests.kit.trouble import ordinary_user
from tests.kit.workers import Diary

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: The same code resolves and requests addresses on both loops: those tests use `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

LOCAL = "127.0.0.1"


# Addresses


async def test_a_list_of_hosts_is_one_server_with_a_socket_each(tmp_path):
    hosts = [LOCAL, "127.0.0.2", "::1", LOCAL]
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        port = free_port()
        for worker in (first, second):
            await worker.do("server = await asyncio.start_server(greet, hosts, port)", hosts=hosts, port=port)
            await diary.until(Listening, worker.worker, count=3)
        names = await first.get("[sock.getsockname()[:2] for sock in server.sockets]")
        assert names == [[LOCAL, port], ["127.0.0.2", port], ["::1", port]]
        for host in hosts[:3]:
            clients = [await Client.connect((host, port)) for _ in range(2)]
            async with closing(clients):
                assert [client.worker for client in clients] == [first.id, second.id]


async def test_a_name_with_several_addresses_is_served_on_all(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do(
            """
real = socket.getaddrinfo

def getaddrinfo(host, port, *args, **more):
    if host != "many.example":
        return real(host, port, *args, **more)
    return [found for one in ("127.0.0.1", "127.0.0.3") for found in real(one, port, *args, **more)]

socket.getaddrinfo = getaddrinfo
server = await asyncio.start_server(greet, "many.example", 0)
"""
        )
        addresses = [tuple(one) for one in await worker.get("[s.getsockname() for s in server.sockets]")]
        assert [host for host, _ in addresses] == [LOCAL, "127.0.0.3"]
        assert {listener.address for listener in cluster.snapshot().listeners} == set(addresses)
        for address in addresses:
            await (await Client.connect(address)).close()


async def test_localhost_is_served_wherever_it_points(tmp_path):
    expected = {
        info[4][0]
        for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    }
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, 'localhost', 0)")
        addresses = await worker.get("[sock.getsockname() for sock in server.sockets]")
        assert {host for host, *_ in addresses} == expected
        for address in addresses:
            await (await Client.connect(tuple(address[:2]))).close()


@pytest.mark.parametrize("host", [None, ""], ids=["none", "empty"])
async def test_no_host_means_every_interface_of_both_families(tmp_path, host):
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, host, port)", host=host, port=free_port())
        names = await worker.get("[sock.getsockname()[:2] for sock in server.sockets]")
        port = names[0][1]
        assert sorted(names) == [["0.0.0.0", port], ["::", port]]
        for reached in (LOCAL, "::1"):
            await (await Client.connect((reached, port))).close()


async def test_an_ipv6_server_leaves_ipv4_alone(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, '::', 0)")
        address = await worker.get("server.sockets[0].getsockname()")
        assert len(address) == 4
        await (await Client.connect(("::1", address[1]))).close()
        assert await is_refused((LOCAL, address[1]))


async def test_a_numeric_host_needs_no_thread(tmp_path):
    """As with asyncio alone: a program may still fork (Python warns of threads then)."""
    async with agents(tmp_path) as (_, worker):
        await worker.serve()
        assert await worker.get("threading.active_count()") == 1


async def test_a_port_may_be_a_string_and_family_chooses(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = free_port()
        await worker.do(
            "server = await asyncio.start_server(greet, None, str(port), family=socket.AF_INET)", port=port
        )
        assert await worker.get("[sock.getsockname() for sock in server.sockets]") == [["0.0.0.0", port]]


# Refusals: the OSError as without a cluster, with the address in its text


async def test_a_port_of_another_process_is_in_use(tmp_path):
    with socket.create_server((LOCAL, 0)) as other:
        port = other.getsockname()[1]
        async with agents(tmp_path) as (cluster, worker):
            error = await worker.fails("await asyncio.start_server(greet, '127.0.0.1', port)", port=port)
            assert error.classes[0] == "OSError"
            assert error.errno == errno.EADDRINUSE
            assert f"('127.0.0.1', {port})" in error.text
            assert "address already in use" in error.text
            assert cluster.snapshot().listeners == ()


async def test_a_port_that_the_worker_itself_serves_is_in_use(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        port = await first.serve()
        await second.serve(port)
        for worker in (first, second):
            error = await worker.fails("await asyncio.start_server(greet, '127.0.0.1', port)", port=port)
            assert error.errno == errno.EADDRINUSE
        async with closing([await Client.connect((LOCAL, port)) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}


async def test_an_address_of_another_machine_is_not_available(tmp_path):
    async with agents(tmp_path) as (_, worker):
        error = await worker.fails("await asyncio.start_server(greet, '192.0.2.1', 0)")
        assert error.classes[0] == "OSError"
        assert error.errno == errno.EADDRNOTAVAIL
        assert "192.0.2.1" in error.text


async def test_a_privileged_port_is_forbidden_to_an_ordinary_user(tmp_path):
    if first_ordinary_port() <= 81:
        pytest.skip("no port is privileged here")
    async with agents(tmp_path) as (_, worker):
        await worker.get("0")
        with ordinary_user():
            error = await worker.fails("await asyncio.start_server(greet, '127.0.0.1', 81)")
        assert error.classes[0] == "PermissionError"
        assert error.errno == errno.EACCES
        assert "('127.0.0.1', 81)" in error.text


async def test_of_several_hosts_one_in_use_fails_all_and_keeps_none(tmp_path):
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        async with agents(tmp_path) as (cluster, worker):
            error = await worker.fails(
                "await asyncio.start_server(greet, ['127.0.0.1', '127.0.0.2'], port)", port=port
            )
            assert error.errno == errno.EADDRINUSE
            assert "127.0.0.2" in error.text
            await worker.get("everycore.listen(('127.0.0.1', 0)).close()")
            assert not any(listener.address == (LOCAL, port) for listener in cluster.snapshot().listeners)


async def test_of_several_hosts_one_that_this_machine_has_not_is_left_out(tmp_path):
    """As in asyncio since 3.13: `localhost` may name ::1 although IPv6 is switched off."""
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, ['192.0.2.1', '127.0.0.1'], 0)")
        ((host, port),) = await worker.get("[sock.getsockname() for sock in server.sockets]")
        assert host == LOCAL
        await (await Client.connect((host, port))).close()


async def test_a_host_that_resolves_to_nothing(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
def nothing(*args, **more):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

socket.getaddrinfo = nothing
"""
        )
        error = await worker.fails("await asyncio.start_server(greet, 'nobody.example', 0)")
        assert error.classes[:2] == ["gaierror", "OSError"]
        await worker.do("socket.getaddrinfo = lambda *args, **more: []")
        error = await worker.fails("await asyncio.start_server(greet, 'nobody.example', 0)")
        assert error.classes[0] == "OSError"
        assert "nobody.example" in error.text


@both_loops
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_arguments_that_do_not_go_together_are_refused_as_asyncio_does(tmp_path):
    wrong = {
        "'127.0.0.1', 0, ssl=True": "TypeError",
        "'127.0.0.1', 0, ssl_handshake_timeout=5": "ValueError",
        "'127.0.0.1', 0, ssl_shutdown_timeout=5": "ValueError",
        "'127.0.0.1', 0, no_such_argument=1": "TypeError",
        "'127.0.0.1', 0, sock=socket.socket()": "ValueError",
        "None, None": "ValueError",
        "sock=socket.socket(type=socket.SOCK_DGRAM)": "ValueError",
        "'127.0.0.1', 65536": "OverflowError",
    }
    raised, alone = {}, {}
    async with agents(tmp_path) as (cluster, worker):
        for arguments in wrong:
            error = await worker.fails(f"await asyncio.start_server(greet, {arguments})")
            raised[arguments] = error.classes[0]
            assert cluster.snapshot().listeners == ()
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
            await eval(f"asyncio.start_server(None, {arguments})", {"asyncio": asyncio, "socket": socket})
        alone[arguments] = type(caught.value).__name__
    assert raised == alone == wrong


@pytest.mark.parametrize(
    ("arguments", "kind"), [("backlog=2**31", "OverflowError"), ("backlog='100'", "TypeError")]
)
async def test_a_backlog_that_cannot_be_costs_nothing_but_the_call(tmp_path, arguments, kind):
    async with agents(tmp_path) as (_, worker):
        error = await worker.fails(f"await asyncio.start_server(greet, '127.0.0.1', 0, {arguments})")
        assert error.classes[0] == kind
        await worker.do(
            "server = await asyncio.start_server(greet, '127.0.0.1', 0, backlog=-1, start_serving=1)"
        )
        await (await Client.connect(tuple(await worker.get("server.sockets[0].getsockname()")))).close()


async def test_a_unix_path_that_is_not_valid_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        for worker in (first, second):
            await worker.listens("server = await asyncio.start_unix_server(greet, path)", path=path)
            assert await worker.get("os.fsencode(server.sockets[0].getsockname())") == path
        async with closing([await Client.connect(path) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}
        assert {listening.address for listening in diary.all(Listening)} == {os.fsdecode(path)}
