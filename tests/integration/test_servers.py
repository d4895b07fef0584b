"""`asyncio.start_server` and its kin, unchanged in a worker: the server is what its documentation says."""

import asyncio
import socket
import sys

import pytest

from everycore import Listening
from tests.kit.ports import free_port
from tests.kit.traffic import Client, acknowledged, agents, closing, is_refused, one_by_one, servers
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: The same code resolves and requests addresses on both loops: those tests use `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

LOCAL = "127.0.0.1"


# What a server reports about itself


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
async def test_after_close_no_client_is_let_in_and_the_server_says_so(tmp_path):
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
async def test_without_start_serving_no_client_is_let_in_until_it_is_called(tmp_path):
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
        await worker.get("everycore.listen(('127.0.0.1', 0)).close()")  # earlier messages were handled
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
