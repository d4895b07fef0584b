"""`asyncio.start_server` and its kin, unchanged in a worker: the server is what its documentation says."""

import asyncio
import errno
import os
import socket
import ssl
import stat
import subprocess
import sys

import pytest

from everycore import Listening
from tests.kit.traffic import (
    Client,
    Diary,
    acknowledged,
    agents,
    closing,
    first_ordinary_port,
    free_port,
    is_refused,
    one_by_one,
    ordinary_user,
    servers,
    within,
)

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Addresses are resolved and asked for by the same code on both loops: those tests run on `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

LOCAL = "127.0.0.1"


# What a server says of itself


@both_loops
async def test_a_server_names_its_real_address_and_serves_it(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        diary = Diary(cluster)
        port = await worker.serve()
        assert port > 0
        assert await worker.get("server.is_serving()")
        assert await worker.get("len(server.sockets)") == 1
        assert await worker.get("server.sockets[0].getsockname()") == [LOCAL, port]
        assert await worker.get("isinstance(server, asyncio.Server) or type(server).__mro__[1].__name__")
        assert await worker.get("server.get_loop() is asyncio.get_running_loop()")
        listening = await diary.until(Listening)
        assert listening.address == (LOCAL, port)
        client = await Client.connect((LOCAL, port))
        assert client.worker == worker.id
        assert await client.echo("line") == "line"
        await client.close()


@both_loops
async def test_a_connection_knows_both_its_ends(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
async def ends(reader, writer):
    names = [writer.get_extra_info(name) for name in ("peername", "sockname")]
    sock = writer.get_extra_info("socket")
    names += [sock.getpeername(), sock.family.name, sock.type.name]
    writer.write(json.dumps(names).encode())
    writer.close()

server = await asyncio.start_server(ends, "127.0.0.1", 0)
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        reader, writer = await asyncio.open_connection(*address)
        mine = list(writer.get_extra_info("sockname"))
        expected = [mine, list(address), mine, "AF_INET", "SOCK_STREAM"]
        assert eval(await within(reader.read())) == expected
        writer.close()
        await writer.wait_closed()


@both_loops
async def test_a_protocol_by_create_server_hears_all_its_callbacks(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
heard = []
over = asyncio.Event()

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        heard.append("made")
    def data_received(self, data):
        heard.append(data.decode())
        self.transport.write(data.upper())
    def eof_received(self):
        heard.append("eof")
    def connection_lost(self, error):
        heard.append(repr(error))
        over.set()

server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
"""
        )
        reader, writer = await asyncio.open_connection(
            *tuple(await worker.get("server.sockets[0].getsockname()"))
        )
        writer.write(b"hello")
        assert await within(reader.readexactly(5)) == b"HELLO"
        writer.write_eof()
        assert await within(reader.read()) == b""
        writer.close()
        await writer.wait_closed()
        await worker.do("await over.wait()")
        assert await worker.get("heard") == ["made", "hello", "eof", "None"]


# Closing


@both_loops
async def test_after_close_nobody_is_let_in_and_the_server_says_so(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        port = await worker.serve()
        await worker.do("server.close()")
        assert await worker.get("[server.is_serving(), len(server.sockets)]") == [False, 0]
        await worker.do("await server.wait_closed()")
        await worker.do("server.close()")  # again: nothing
        assert await worker.get("await asyncio.start_server(greet, '127.0.0.1', port) is not None", port=port)
        assert cluster.snapshot().listeners[0].workers == (worker.id,)


@both_loops
async def test_the_address_is_free_when_the_last_server_on_it_closed(tmp_path):
    async with servers(tmp_path, 2) as (cluster, (first, second), address):
        await first.do("server.close()")
        await first.get("0")
        with pytest.raises(OSError, match="in use"):
            socket.create_server(address).close()
        await second.do("server.close()")
        await second.do("await (await asyncio.start_server(greet, '127.0.0.1', 0)).start_serving()")
        assert address not in [listener.address for listener in cluster.snapshot().listeners]
        socket.create_server(address).close()


@both_loops
async def test_wait_closed_waits_for_the_connections(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        one = await Client.connect((LOCAL, port))
        two = await Client.connect((LOCAL, port))
        await worker.do("server.close(); closed = asyncio.create_task(server.wait_closed())")
        assert await two.echo("still served") == "still served"
        await one.close()
        assert await two.echo() == "hello"
        assert not await worker.get("closed.done()")
        await two.close()
        await within(worker.do("await closed"))


@both_loops
@pytest.mark.parametrize("road", ["handler", "protocol"])
async def test_wait_closed_of_a_socket_from_listen_waits_too(tmp_path, road):
    make = {
        "handler": "asyncio.start_server(greet, sock=sock)",
        "protocol": "asyncio.get_running_loop().create_server(lambda: asyncio.StreamReaderProtocol("
        "asyncio.StreamReader(), greet), sock=sock)",
    }[road]
    async with agents(tmp_path) as (_, worker):
        await worker.do(f"sock = everycore.listen(('127.0.0.1', 0)); server = await {make}")
        client = await Client.connect((LOCAL, await worker.get("sock.getsockname()[1]")))
        await worker.do("server.close(); closed = asyncio.create_task(server.wait_closed())")
        assert await client.echo() == "hello"
        assert not await worker.get("closed.done()")
        await client.close()
        await within(worker.do("await closed"))


@both_loops
async def test_leaving_async_with_closes_and_waits(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
leave = asyncio.Event()
left = asyncio.Event()

async def serve():
    global server
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        started.set_result(None)
        await leave.wait()
    left.set()

started = asyncio.get_running_loop().create_future()
serving = asyncio.create_task(serve())
await started
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        client = await Client.connect(address)
        await worker.do("leave.set()")
        assert await client.echo() == "hello"
        assert not await worker.get("left.is_set()")
        assert not await worker.get("server.is_serving()")
        await client.close()
        await within(worker.do("await left.wait()"))
        assert await is_refused(address)


@both_loops
@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_close_clients_and_abort_clients_end_every_connection(tmp_path, how):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        async with closing([await Client.connect((LOCAL, port)) for _ in range(3)]) as clients:
            await worker.do("server.close()")
            await worker.do(f"server.{how}()")
            assert [await client.ended() for client in clients] == [b""] * 3
            await within(worker.do("await server.wait_closed()"))


# Serving later, serving forever


@both_loops
async def test_without_start_serving_nobody_is_let_in_until_it_is_called(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        diary = Diary(cluster)
        await worker.do("server = await asyncio.start_server(greet, '127.0.0.1', 0, start_serving=False)")
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        assert not await worker.get("server.is_serving()")
        assert await is_refused(address)
        assert diary.all(Listening) == []
        assert not worker.worker.is_ready
        await worker.do("await server.start_serving()")
        assert await worker.get("server.is_serving()")
        client = await Client.connect(address)  # it listens as soon as `start_serving` has returned
        assert (await diary.until(Listening)).address == address
        await worker.do("await server.start_serving()")  # again: nothing
        assert await client.echo() == "hello"
        assert len(diary.all(Listening)) == 1
        await client.close()


@both_loops
async def test_a_server_that_never_started_keeps_its_port_from_others_until_it_is_closed(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_server(greet, '127.0.0.1', 0, start_serving=False)")
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        await worker.do("server.close(); await server.wait_closed()")
        await worker.get("everycore.listen(('127.0.0.1', 0)).close()")  # what was said before this was heard
        with socket.socket() as other:
            other.bind(address)


@both_loops
async def test_one_worker_serves_while_another_has_only_bound(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        port = await first.serve()
        await second.do(
            "server = await asyncio.start_server(greet, '127.0.0.1', port, start_serving=False)", port=port
        )
        async with closing([await Client.connect((LOCAL, port)) for _ in range(3)]) as clients:
            assert [client.worker for client in clients] == [first.id] * 3
            await second.listens("await server.start_serving()")
            await acknowledged(cluster)
            clients += await one_by_one(cluster, [(LOCAL, port)] * 4)
            assert {client.worker for client in clients[3:]} == {first.id, second.id}


@both_loops
async def test_serve_forever_serves_until_it_is_cancelled(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            "server = await asyncio.start_server(greet, '127.0.0.1', 0, start_serving=False)\n"
            "port = server.sockets[0].getsockname()[1]\n"
            "serving = asyncio.create_task(server.serve_forever())"
        )
        port = await worker.get("port")
        client = await Client.connect((LOCAL, port))
        await client.close()
        assert (await worker.fails("await server.serve_forever()")).classes[0] == "RuntimeError"
        await worker.do(
            "serving.cancel()\n"
            "results = await asyncio.gather(serving, return_exceptions=True)\n"
            "outcome = [type(result).__name__ for result in results]"
        )
        assert await worker.get("outcome") == ["CancelledError"]
        assert not await worker.get("server.is_serving()")
        assert await is_refused((LOCAL, port))
        assert (await worker.fails("await server.serve_forever()")).classes[0] == "RuntimeError"


# Sockets that do not come from the primary


@both_loops
async def test_reuse_port_makes_sockets_of_the_workers_own(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        port = free_port()
        for worker in (first, second):
            await worker.do(
                "server = await asyncio.start_server(greet, '127.0.0.1', port, reuse_port=True)", port=port
            )
        assert cluster.snapshot().listeners == ()
        async with closing([await Client.connect((LOCAL, port)) for _ in range(4)]) as clients:
            assert {client.worker for client in clients} <= {first.id, second.id}
        assert diary.all(Listening) == []


@both_loops
async def test_a_socket_passed_explicitly_is_used_as_it_is(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do(
            "mine = socket.create_server(('127.0.0.1', 0))\n"
            "server = await asyncio.start_server(greet, sock=mine)"
        )
        address = tuple(await worker.get("mine.getsockname()"))
        async with closing([await Client.connect(address)]) as clients:
            assert clients[0].worker == worker.id
            assert cluster.snapshot().listeners == ()


@both_loops
async def test_a_listening_socket_received_as_a_handle_is_used_as_it_is(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        mine = socket.create_server((LOCAL, 0))
        address = mine.getsockname()
        await worker.do("server = await asyncio.start_server(greet, sock=handle)", handle=mine)
        async with closing([await Client.connect(address)]) as clients:
            assert clients[0].worker == worker.id
            assert cluster.snapshot().listeners == ()


# A start that is given up


@both_loops
async def test_a_cancelled_start_gives_its_index_back_whenever_it_is_cancelled(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        port = await second.serve()
        await first.do(
            """
async def give_up(turns):
    starting = asyncio.create_task(asyncio.start_server(greet, "127.0.0.1", 0))
    for _ in range(turns):
        await asyncio.sleep(0)
    if starting.cancel():
        return [str(result) for result in await asyncio.gather(starting, return_exceptions=True)]
    starting.result().close()
    return ["served"]
"""
        )
        outcomes = [await first.get("await give_up(turns)", turns=turns) for turns in range(12)]
        assert outcomes[0] == [""]  # the text of a CancelledError
        served = outcomes.count(["served"])  # too late to cancel: it was closed instead
        assert len(diary.all(Listening, first.worker)) == served < len(outcomes)
        assert await first.serve() == port  # index 0: nothing of the twelve is left
        (listener,) = cluster.snapshot().listeners
        assert listener.workers == (first.id, second.id)


@both_loops
async def test_a_unix_server_cancelled_while_the_primary_is_asked_is_never_held(tmp_path):
    path = str(tmp_path / "s")
    async with agents(tmp_path) as (cluster, worker):
        diary = Diary(cluster)
        await worker.do(
            """
starting = asyncio.create_task(asyncio.start_unix_server(greet, path))
await asyncio.sleep(0)  # it has asked
starting.cancel()
await asyncio.wait([starting])
""",
            path=path,
        )
        assert await worker.get("starting.cancelled()")
        await worker.do("server = await asyncio.start_unix_server(greet, path)")
        await diary.until(Listening)
        assert len(diary.all(Listening)) == 1
        assert len(cluster.snapshot().listeners) == 1


@both_loops
async def test_several_servers_of_one_worker_do_not_mix(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
def saying(text):
    async def say_it(reader, writer):
        writer.write(text)
        writer.close()
    return say_it

made = [await asyncio.start_server(saying(b"%d" % n), "127.0.0.1", 0) for n in range(3)]
"""
        )
        ports = await worker.get("[server.sockets[0].getsockname()[1] for server in made]")
        assert len(set(ports)) == 3
        for number, port in enumerate(ports):
            client = await Client.open((LOCAL, port))
            assert await client.ended() == b"%d" % number
            await client.close()


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


# Refusals: the OSError of a lone process, with the address in its text


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
    """As asyncio does since 3.13: `localhost` may name ::1 where IPv6 is switched off."""
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


async def test_a_unix_path_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        for worker in (first, second):
            await worker.listens("server = await asyncio.start_unix_server(greet, path)", path=path)
            assert await worker.get("os.fsencode(server.sockets[0].getsockname())") == path
        async with closing([await Client.connect(path) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}
        assert {listening.address for listening in diary.all(Listening)} == {os.fsdecode(path)}


# Programs with faults of their own


@both_loops
async def test_a_protocol_factory_that_raises_loses_that_connection_alone(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
reports = []
loop = asyncio.get_running_loop()
loop.set_exception_handler(lambda loop, context: reports.append(str(context["exception"])))
turn_of = iter([True, False])

def factory():
    if next(turn_of, False):
        raise ValueError("no protocol today")
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), greet)

server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        unlucky = await Client.open(address)
        assert await unlucky.ended() == b""
        await unlucky.close()
        client = await Client.connect(address)
        assert await worker.get("reports") == ["no protocol today"]
        await client.close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))  # the failed one is not counted as open


@both_loops
async def test_a_handler_that_raises_loses_that_connection_alone(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
reports = []
asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context["message"]))

async def bad(reader, writer):
    if (await reader.readline()).strip() == b"bad":
        raise ValueError
    await greet(reader, writer)

server = await asyncio.start_server(bad, "127.0.0.1", 0)
"""
        )
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        one, two = await Client.open(address), await Client.open(address)
        one.writer.write(b"bad\n")
        assert await one.ended() == b""
        two.writer.write(b"good\n")
        assert await two.greeting() == worker.id
        await one.close()
        await two.close()


# Unix sockets


@pytest.mark.parametrize("kind", ["absolute", "relative", "long", "bytes", "path-object"])
async def test_a_unix_server_is_shared_and_its_file_goes_at_the_end(tmp_path, kind):
    folder = tmp_path
    if kind == "long":
        folder = tmp_path / ("d" * 60) / ("e" * 60)
        folder.mkdir(parents=True)
    path = folder / "the.sock"
    expression = {
        "absolute": repr(str(path)),
        "long": repr(str(path)),
        "relative": "'the.sock'",
        "bytes": repr(os.fsencode(path)),
        "path-object": f"__import__('pathlib').Path({str(path)!r})",
    }[kind]
    reach = str(path)
    if kind == "long":
        (tmp_path / "short").symlink_to(folder)
        reach = str(tmp_path / "short" / "the.sock")
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        for worker in (first, second):
            await worker.listens(
                f"os.chdir({str(tmp_path)!r}); server = await asyncio.start_unix_server(greet, {expression})"
            )
            assert await worker.get("server.sockets[0].getsockname()") == str(path)
        assert {listening.address for listening in diary.all(Listening)} == {str(path)}
        async with closing(await one_by_one(cluster, [reach] * 4)) as clients:
            assert [client.worker for client in clients] == [first.id, second.id] * 2
        await first.do("server.close(); await server.wait_closed()")
        assert stat.S_ISSOCK(path.stat().st_mode)
        await (await Client.connect(reach)).close()
        await second.do("server.close(); await server.wait_closed()")
        await second.get("everycore.listen(('127.0.0.1', 0)).close()")
        assert not path.exists()


async def test_an_abstract_unix_server(tmp_path):
    name = f"\0everycore-test-{os.getpid()}"
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.listens("server = await asyncio.start_unix_server(greet, name)", name=name)
        async with closing([await Client.connect(name) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}


async def test_a_stale_socket_file_is_replaced(tmp_path):
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_unix_server(greet, path)", path=path)
        await (await Client.connect(path)).close()


async def test_a_living_socket_or_another_file_is_left_alone(tmp_path):
    living, ordinary = str(tmp_path / "living"), str(tmp_path / "ordinary")
    (tmp_path / "ordinary").write_text("precious")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(living)
        server.listen()
        async with agents(tmp_path) as (_, worker):
            for path in (living, ordinary):
                error = await worker.fails("await asyncio.start_unix_server(greet, path)", path=path)
                assert error.errno == errno.EADDRINUSE
                assert path in error.text
    assert (tmp_path / "ordinary").read_text() == "precious"


async def test_a_unix_path_that_cannot_be(tmp_path):
    async with agents(tmp_path) as (_, worker):
        missing = str(tmp_path / "missing" / "s")
        error = await worker.fails("await asyncio.start_unix_server(greet, path)", path=missing)
        assert (error.classes[0], error.errno) == ("FileNotFoundError", errno.ENOENT)
        assert missing in error.text


@both_loops
async def test_a_client_with_an_unreadable_name_is_served_as_any_other(tmp_path):
    """Its address is no text, and must not stop the primary (nor the worker)."""
    path = str(tmp_path / "s")
    name = os.fsencode(tmp_path) + b"/client-\xff\xfe"
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_unix_server(greet, path)", path=path)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
            sock.setblocking(False)
            await loop.sock_connect(sock, path)
            assert await within(loop.sock_recv(sock, 10)) == b"%d\n" % worker.id
        async with closing([await Client.connect(path) for _ in range(4)]):
            pass


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Files of a key and a certificate for localhost, made here and now."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    argv = [*command.split(), *name, "-keyout", key, "-out", cert]
    subprocess.run(argv, check=True, capture_output=True)
    return key, cert


SERVE_TLS = """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context, **more)
"""


def trusting(cert: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cert)
    return context


@both_loops
async def test_tls_is_spoken_by_every_worker(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.listens(SERVE_TLS, key=key, cert=cert, more={})
        address = tuple(await first.get("server.sockets[0].getsockname()"))
        async with closing([await Client.connect(address, tls=trusting(cert)) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}
            assert clients[0].writer.get_extra_info("cipher")
            text = "x" * 40_000
            clients[0].reader._limit = 1 << 20  # type: ignore[attr-defined]
            assert await clients[0].echo(text) == text


@both_loops
async def test_a_client_without_tls_or_trust_hurts_nobody(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path) as (_, worker):
        await worker.do("asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)")
        await worker.do(SERVE_TLS, key=key, cert=cert, more={})
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        plain = await Client.open(address)
        plain.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await plain.ended()
        await plain.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.open(address, tls=ssl.create_default_context())
        await (await Client.connect(address, tls=trusting(cert))).close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))


@both_loops
async def test_a_silent_client_is_given_up_after_the_handshake_timeout(tmp_path, certificate):
    key, cert = certificate
    async with agents(tmp_path) as (_, worker):
        await worker.do("asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)")
        await worker.do(SERVE_TLS, key=key, cert=cert, more={"ssl_handshake_timeout": 0.05})
        address = tuple(await worker.get("server.sockets[0].getsockname()"))
        silent = await Client.open(address)
        assert await silent.ended() == b""
        await silent.close()


@both_loops
async def test_tls_on_a_socket_from_listen_and_on_a_unix_path(tmp_path, certificate):
    key, cert = certificate
    path = str(tmp_path / "s")
    async with agents(tmp_path) as (_, worker):
        await worker.do(SERVE_TLS, key=key, cert=cert, more={})
        await worker.do(
            "sock = everycore.listen(('127.0.0.1', 0))\n"
            "second = await asyncio.start_server(greet, sock=sock, ssl=context)\n"
            "third = await asyncio.start_unix_server(greet, path, ssl=context)",
            path=path,
        )
        for address in (tuple(await worker.get("sock.getsockname()")), path):
            client = await Client.connect(address, tls=trusting(cert))
            assert await client.echo() == "hello"
            await client.close()


# Clients of all kinds


@both_loops
async def test_a_client_that_leaves_at_once_hurts_nobody(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        for _ in range(20):
            with socket.create_connection((LOCAL, port)) as sock:
                # Reset instead of an orderly end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client = await Client.connect((LOCAL, port))
        assert await client.echo() == "hello"
        await client.close()
        await worker.do("server.close()")
        await within(worker.do("await server.wait_closed()"))


@both_loops
async def test_servers_close_when_the_worker_leaves_and_connections_may_finish(tmp_path):
    async with servers(tmp_path, 1, grace=10.0) as (_, (worker,), address):
        client = await Client.connect(address)
        worker.worker.disconnect()
        assert await client.echo("still served") == "still served"
        await client.close()
        assert (await within(worker.worker.wait())).code == 0


@both_loops
async def test_a_thousand_bytes_at_once_and_in_order(tmp_path):
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        client = await Client.connect((LOCAL, port))
        for number in range(50):
            client.writer.write(b"%d\n" % number)
        assert [int(await within(client.reader.readline())) for _ in range(50)] == list(range(50))
        await client.close()
