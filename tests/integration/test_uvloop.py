"""Workers on uvloop: which loop it is, and where the code differs from asyncio's.

What holds on both loops is tested on both, by the fixture `loop_kind`.
"""

import asyncio
import http.client
import sys
from collections import Counter
from functools import partial

import pytest

import everycore
from everycore import ConfigurationError
from everycore.foreign import is_allowed
from everycore.settings import LOOPS, check_loop
from tests.kit import open_fds, scaled
from tests.kit.traffic import NEVER, Client, agents, closing, none_open, servers
from tests.kit.workers import within

uvloop = pytest.importorskip("uvloop")
uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from the first loop on

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


class TestWhichLoop:
    @pytest.fixture
    def new_loop(self):
        """`new_event_loop` in this process, outside a worker; what it makes is closed."""
        made = []

        def make(*kind):
            made.append(everycore.new_event_loop(*kind))
            return made[-1]

        yield make
        for loop in made:
            loop.close()

    @pytest.mark.parametrize("kind", LOOPS)
    async def test_in_a_worker(self, tmp_path, monkeypatch, kind):
        monkeypatch.setenv("EVERYCORE_TEST_LOOP", kind)
        async with agents(tmp_path) as (_, worker):
            classes = await worker.get("[cls.__name__ for cls in type(asyncio.get_running_loop()).__mro__]")
            assert classes[0] == ("ClusterEventLoop" if kind == "asyncio" else "ClusterUvloop")
            await worker.serve()
            assert (await worker.get("type(server).__name__")) == (
                "ClusterServer" if kind == "asyncio" and is_allowed("asyncio.servers") else "BeltServer"
            )

    def test_elsewhere_auto_is_asyncio_and_uvloop_is_uvloop(self, new_loop):
        assert not isinstance(new_loop(), uvloop.Loop)
        assert not isinstance(new_loop("asyncio"), uvloop.Loop)
        assert type(new_loop("uvloop")) is uvloop.Loop
        assert everycore.run(_running_loop(), loop="uvloop") is uvloop.Loop
        assert everycore.run(_running_loop()) is not uvloop.Loop

    @pytest.mark.parametrize("call", [everycore.new_event_loop, partial(check_loop, "loop")])
    def test_asked_for_and_not_installed_it_is_an_error_that_says_what_to_do(self, monkeypatch, call):
        monkeypatch.setitem(sys.modules, "uvloop", None)
        with pytest.raises(ConfigurationError, match=r"^loop: .*pip install everycore\[uvloop\]"):
            call("uvloop")
        check_loop("loop", "auto")

    async def test_auto_does_without_where_it_is_not_installed(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.do(
                "sys.modules['uvloop'] = None\n"
                "loop = everycore.new_event_loop()\n"
                "kind = type(loop).__name__\n"
                "loop.close()"
            )
            assert await worker.get("kind") == "ClusterEventLoop"

    @pytest.mark.parametrize("command", [("serve", "app:app"), ("run", "app.py")])
    def test_on_the_command_line_it_is_a_usage_error(self, start_command, tmp_path, command):
        (tmp_path / "app.py").touch()
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
        argv = [sys.executable, "-m", "everycore", command[0], "--loop", "uvloop", command[1]]
        program = start_command(argv, env={"PYTHONPATH": str(tmp_path)})
        program.expect(r"--loop: .*pip install everycore\[uvloop\]", stream="stderr")
        assert program.wait() == 2

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(ConfigurationError, match="auto, asyncio, uvloop"):
            everycore.new_event_loop("trio")  # type: ignore[arg-type]

    def test_without_the_option_it_is_not_imported(self, start_program):
        source = """
        import sys, everycore
        everycore.new_event_loop().close()
        print("uvloop" in sys.modules, flush=True)
        """
        start_program(source).expect("False")


async def _running_loop():
    return type(asyncio.get_running_loop())


@pytest.mark.usefixtures("on_uvloop")
class TestServer:
    """`BeltServer` has on every Python what `asyncio.Server` has on Python 3.13."""

    @pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
    async def test_close_clients_and_abort_clients(self, tmp_path, how):
        async with agents(tmp_path) as (_, worker):
            port = await worker.serve()
            async with closing([await Client.connect((LOCAL, port)) for _ in range(3)]) as clients:
                await worker.do(f"server.close(); server.{how}()")
                assert [await client.ended() for client in clients] == [b""] * 3
                await within(worker.do("await server.wait_closed()"))
            assert await worker.get("inside.connections.open") == 0

    async def test_a_protocol_that_is_closed_in_connection_made_is_not_counted_for_ever(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            for how in ("close", "abort"):
                await worker.do(
                    f"""
class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        transport.{how}()

server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
"""
                )
                address = tuple(await worker.get("server.sockets[0].getsockname()"))
                clients = [await Client.open(address) for _ in range(3)]
                for client in clients:
                    assert await client.ended() == b""
                    await client.close()
                await within(worker.do("server.close(); await server.wait_closed()"))
                assert await worker.get("inside.connections.open") == 0

    async def test_a_transport_that_the_program_drops_ends_its_connection(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.do(
                """
import gc, warnings
warnings.simplefilter("ignore", ResourceWarning)

class Careless(asyncio.Protocol):
    def connection_made(self, transport):
        asyncio.get_running_loop().call_soon(transport.pause_reading)

server = await asyncio.get_running_loop().create_server(Careless, "127.0.0.1", 0)
"""
            )
            client = await Client.open(tuple(await worker.get("server.sockets[0].getsockname()")))
            try:
                await within(
                    worker.do("while inside.connections.open:\n    gc.collect()\n    await asyncio.sleep(0)")
                )
                assert await client.ended() == b""
            finally:
                await client.close()

    async def test_connection_made_that_raises_harms_no_other_connection(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.do(
                """
told = []

def hear(loop, context):
    told.append(repr(context["exception"]))

asyncio.get_running_loop().set_exception_handler(hear)

class Protocol(asyncio.Protocol):
    count = 0
    def connection_made(self, transport):
        Protocol.count += 1
        if Protocol.count == 1:
            raise LookupError("on purpose")
        transport.write(b"%d\\n" % ID)
        transport.close()

server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
"""
            )
            address = tuple(await worker.get("server.sockets[0].getsockname()"))
            first = await Client.open(address)
            second = await Client.connect(address)
            await first.close()
            await second.close()
            assert await worker.get("told") == ["LookupError('on purpose')"]
            await none_open([worker])

    async def test_serve_forever_ends_when_the_server_is_closed(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            await worker.serve()
            await worker.do(
                "serving = asyncio.create_task(server.serve_forever())\n"
                "await asyncio.sleep(0)\n"
                "server.close()\n"
                "outcome = (await asyncio.gather(serving, return_exceptions=True))[0]"
            )
            assert await worker.get("type(outcome).__name__") == "CancelledError"
            assert (await worker.fails("await server.start_serving()")).classes[0] == "RuntimeError"

    async def test_a_datagram_endpoint_is_shared(self, tmp_path):
        code = """
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, address):
        self.transport.sendto(b"%d " % ID + data, address)
    def connection_lost(self, error):
        self.lost.set_result(error)

endpoint, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("127.0.0.1", port))
port = endpoint.get_extra_info("sockname")[1]
"""
        async with agents(tmp_path, 2) as (cluster, first, second):
            await first.do(code, port=0)
            port = await first.get("port")
            await second.do(code, port=port)
            assert cluster.snapshot().listeners[0].workers == (first.id, second.id)
            answers: asyncio.Queue[bytes] = asyncio.Queue()

            class Asks(asyncio.DatagramProtocol):
                def datagram_received(self, data, address):
                    answers.put_nowait(data)

            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Asks, remote_addr=(LOCAL, port)
            )
            transport.sendto(b"hello")
            assert (await within(answers.get())).split()[1] == b"hello"
            transport.close()
            for worker in (first, second):
                await worker.do("endpoint.close(); await protocol.lost")
                await worker.get("everycore.listen(('127.0.0.1', 0)).close()")  # behind the belt
            assert cluster.snapshot().listeners == ()


@pytest.mark.usefixtures("on_uvloop")
class TestManyConnections:
    @pytest.mark.ci_only
    async def test_kept_ones_are_spread_evenly(self, tmp_path):
        async with servers(tmp_path, 4) as (_, workers, address), closing([]) as clients:
            for _ in range(10):
                clients += await asyncio.gather(*(Client.connect(address) for _ in range(16)))
            shares = Counter(client.worker for client in clients)
            assert set(shares) == {worker.id for worker in workers}
            # 1.25 of the mean: a worker that is late for want of a processor is skipped.
            assert max(shares.values()) <= 50, shares

    @pytest.mark.limit(60)
    @pytest.mark.parametrize("policy", ["round_robin", "shared"])
    async def test_two_thousand_leave_no_descriptor_and_no_object_behind(self, tmp_path, policy):
        async with servers(tmp_path, 2, policy=policy) as (_, workers, address):

            async def some(count: int) -> None:
                clients = await asyncio.gather(*(Client.connect(address) for _ in range(count)))
                await asyncio.gather(*(client.close() for client in clients))

            async def look() -> list[list[int]]:
                for worker in workers:
                    await none_open([worker])
                    await worker.do("while server.connection_limit.open: await asyncio.sleep(0)")
                return [
                    await worker.get(
                        "[descriptors(), server.connection_limit.open, count()]",
                    )
                    for worker in workers
                ]

            for worker in workers:
                await worker.do(
                    "import gc\n"
                    "def descriptors():\n"
                    "    paths = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]\n"
                    "    return sorted(os.readlink(path) for path in paths if os.path.lexists(path))\n"
                    "def count():\n"
                    "    gc.collect()\n"
                    "    names = ('Accepted', 'TCPTransport', 'StreamReaderProtocol', 'Future')\n"
                    "    return sum(type(thing).__name__ in names for thing in gc.get_objects())\n"
                    # libuv opens a spare descriptor with the first connection of its life.
                    "(await asyncio.open_connection('127.0.0.1', port))[1].close()"
                )
            await some(50)
            before, ours = await look(), len(open_fds())
            for _ in range(40):
                await some(50)
            assert await look() == before
            assert len(open_fds()) == ours


@pytest.mark.usefixtures("loop_kind")
class TestOpenedConnections:
    """A departure waits only for accepted connections, not for those that the program has opened."""

    DIAL = """
opened = await asyncio.open_connection("127.0.0.1", port)
"""

    async def test_accepted_ones_are_counted_until_they_are_closed(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            port = await worker.serve()
            await worker.do("server = None")
            before = await worker.get("inside.connections.open")
            await worker.do(self.DIAL, port=port)
            await worker.do("await opened[0].readline()")
            assert await worker.get("inside.connections.open") == before + 1  # both ends are its own
            await worker.do("opened[1].close(); await opened[1].wait_closed()")
            await none_open([worker])

    async def test_a_departure_does_not_wait_for_one(self, tmp_path):
        async with agents(tmp_path, grace=NEVER) as (_, worker):
            far_end: asyncio.Queue[Client] = asyncio.Queue()
            server = await asyncio.start_server(lambda *pair: far_end.put_nowait(Client(*pair)), LOCAL, 0)
            await worker.do(self.DIAL, port=server.sockets[0].getsockname()[1])
            client = await far_end.get()
            worker.worker.disconnect()
            assert await within(worker.worker.wait()) == everycore.ExitStatus(code=0)
            assert await client.ended() == b""
            await client.close()
            server.close()


PROGRAM = """
import asyncio, os, uvloop

async def greet(reader, writer):
    writer.write(b"%d\\n" % os.getpid())
    async for line in reader:
        writer.write(line)
    writer.close()

async def main():
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    os.write(1, b"port %d %s\\n" % (server.sockets[0].getsockname()[1], type(server).__name__.encode()))
    await server.serve_forever()

uvloop.run(main())
"""


class TestProgramsThatKnowNothingOfUs:
    """`everycore run` and `everycore serve`."""

    @pytest.mark.ci_only
    def test_a_program_of_uvloop_s_own(self, start_command, tmp_path):
        (tmp_path / "program.py").write_text(PROGRAM)
        program = start_command([sys.executable, "-m", "everycore", "run", "--workers", "2", "program.py"])
        ports = {program.expect(r"^port (\d+) BeltServer")[1] for _ in range(2)}
        assert len(ports) == 1
        program.expect("ready: all 2 workers", stream="stderr")

        async def talk() -> None:
            async with closing([]) as clients:
                while len({client.worker for client in clients}) < 2:
                    clients.append(await Client.connect((LOCAL, int(*ports))))
                    assert await clients[-1].echo() == "hello"

        asyncio.run(talk())
        assert program.finish() == 0
        assert "Traceback" not in program.stderr
        assert "Exception" not in program.stderr

    @pytest.mark.ci_only
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_uvicorn_in_everycore_run(self, start_command, tmp_path, loop):
        (tmp_path / "app.py").write_text(APP)
        command = [
            *("run", "--workers", "2", "-m", "uvicorn", "--loop", loop, "--port", "0", "app:app"),
            *("--log-level", "warning"),
        ]
        program = start_command([sys.executable, "-m", "everycore", *command])
        port = int(program.expect(r"listens on tcp://127\.0\.0\.1:(\d+)", stream="stderr")[1])
        program.expect("ready: all 2 workers", stream="stderr")
        assert _kinds_of_both(port) == {"Loop" if loop == "uvloop" else "_UnixSelectorEventLoop"}
        assert program.finish() == 0
        assert "Traceback" not in program.stderr

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_everycore_serve(self, start_command, tmp_path, loop):
        (tmp_path / "app.py").write_text(APP)
        command = ("serve", "--workers", "2", "--loop", loop, "--bind", "127.0.0.1:0", "app:app")
        program = start_command([sys.executable, "-m", "everycore", *command])
        port = int(program.expect(r"127\.0\.0\.1:(\d+)", stream="stderr")[1])
        program.expect("ready", stream="stderr")
        assert _kinds_of_both(port) == {"ClusterUvloop" if loop == "uvloop" else "ClusterEventLoop"}
        assert program.finish() == 0


APP = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"%d %s" % (os.getpid(), type(asyncio.get_running_loop()).__name__.encode())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def _kinds_of_both(port: int) -> set[str]:
    """The kinds of the workers' event loops. A late worker is skipped: ask until both answer."""
    answers: dict[int, str] = {}
    while len(answers) < 2:
        answers.update([_get(port)])
    return set(answers.values())


def _get(port: int) -> tuple[int, str]:
    """The worker that answered, and the kind of its event loop."""
    connection = http.client.HTTPConnection(LOCAL, port, timeout=scaled(10))
    try:
        connection.request("GET", "/")
        who, kind = connection.getresponse().read().decode().split()
    finally:
        connection.close()
    return int(who), kind
