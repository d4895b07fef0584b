"""`everycore run`: programs that use asyncio or uvloop, however they make their loop."""

import os
import signal
import socket

import pytest

from tests.kit.running import ANSWER, ask, make_certificate, run

WAYS = {
    "asyncio.run": "asyncio.run(main())",
    "runner": "with asyncio.Runner() as runner: runner.run(main())",
    "loop by hand": """
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
""",
    "selector loop with a selector": """
import selectors
loop = asyncio.SelectorEventLoop(selectors.PollSelector())
loop.run_until_complete(main())
""",
    "loop class of its own": """
class Loop(asyncio.SelectorEventLoop):
    pass
with asyncio.Runner(loop_factory=Loop) as runner: runner.run(main())
""",
    "policy": """
class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return asyncio.SelectorEventLoop()
asyncio.set_event_loop_policy(Policy())
asyncio.run(main())
""",
    "second loop": """
async def first():
    pass
asyncio.run(first())
asyncio.run(main())
""",
    "thread": """
thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start()
thread.join()
""",
    "debug": "asyncio.run(main(), debug=True)",
    "everycore.run": "import everycore; everycore.run(main())",
    "everycore.run on asyncio": "import everycore; everycore.run(main(), loop='asyncio')",
    "uvloop.run": "import uvloop; uvloop.run(main())",
    "uvloop policy": """
import uvloop
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(main())
""",
    "uvloop factory": """
import uvloop
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())
""",
    "anyio": "import anyio; anyio.run(main)",
    "anyio on uvloop": "import anyio; anyio.run(main, backend_options={'use_uvloop': True})",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=[name.replace(" ", "_") for name in WAYS])
def test_every_way_to_make_a_loop(start_command, tmp_path, way):
    for module in ("uvloop", "anyio"):
        if module in way:
            pytest.importorskip(module)
    running = run(start_command, tmp_path, ANSWER + way)
    running.everybody_answers(running.port())
    assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["PollSelector", "SelectSelector", "EpollSelector"])
def test_a_shared_listener_in_a_loop_that_waits_in_something_else(start_command, tmp_path, selector):
    """Only epoll has a queue in which workers take turns; without one they all wake, and still share."""
    source = (
        ANSWER
        + "import selectors\nasyncio.SelectorEventLoop(selectors.SELECTOR()).run_until_complete(main())"
    )
    source = source.replace("SELECTOR", selector)
    running = run(start_command, tmp_path, source, options=["--policy", "shared"])
    running.everybody_answers(running.port())
    assert running.program.finish() == 0
    assert "Traceback" not in running.program.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=["plain", "-W error"])
def test_option_loop_gives_uvloop_to_a_program_that_leaves_the_choice(start_command, tmp_path, flags):
    """A warning about everycore's own actions would be an error in the program."""
    pytest.importorskip("uvloop")
    source = ANSWER.replace('b"%d\\n" % os.getpid()', "type(asyncio.get_running_loop()).__module__.encode()")
    running = run(
        start_command, tmp_path, source + "asyncio.run(main())", options=["--loop", "uvloop"], flags=flags
    )
    assert ask(running.port()) == "uvloop"


SERVERS = {
    "listening socket": """
    sock = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(answer, sock=sock)
""",
    "bound socket": """
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(answer, sock=sock)
""",
    "small backlog": """
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1)
""",
    "later": """
    server = await asyncio.start_server(answer, "127.0.0.1", 0, start_serving=False)
    await asyncio.sleep(0)
    await server.start_serving()
""",
    "reading by hand": """
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    while True:
        conn, _ = await loop.sock_accept(sock)
        await answer(*(await asyncio.open_connection(sock=conn)))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("server", SERVERS.values(), ids=[name.replace(" ", "_") for name in SERVERS])
def test_every_way_to_make_a_server(start_command, tmp_path, server, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    head = ANSWER.partition("async def main")[0]
    tail = "    await asyncio.Event().wait()\n\nasyncio.run(main())\n"
    source = f"{head}async def main():{server}{tail}"
    running = run(start_command, tmp_path, source, options=["--loop", kind])
    running.everybody_answers(running.port())
    assert running.program.finish() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_closed_address_can_be_had_again_at_once(start_command, tmp_path, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    head = ANSWER.partition("async def main")[0]
    source = head + (
        "async def main():\n"
        "    server = await asyncio.start_server(answer, '127.0.0.1', 0)\n"
        "    address = server.sockets[0].getsockname()\n"
        "    server.close()\n"
        "    server = await asyncio.start_server(answer, *address)\n"
        "    print('again', flush=True)\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    running = run(start_command, tmp_path, source, workers=1, options=["--loop", kind])
    running.program.expect("again")
    running.everybody_answers(running.port())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_unix_server(start_command, tmp_path, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    head = ANSWER.partition("async def main")[0]
    source = head + (
        "async def main():\n"
        "    server = await asyncio.start_unix_server(answer, 'socket')\n"
        "    print(server.sockets[0].getsockname(), flush=True)\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    running = run(start_command, tmp_path, source, options=["--loop", kind])
    assert running.listens() == str(tmp_path / "socket")
    running.ready()
    running.everybody_answers(str(tmp_path / "socket"))
    assert running.program.expect("socket")[0] == "socket"
    assert running.program.finish() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["server.py"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_server_with_tls(start_command, tmp_path, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    source = ANSWER.replace('"127.0.0.1", 0', '"127.0.0.1", 0, ssl=tls') + (
        "import ssl\n"
        "tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        f"tls.load_cert_chain({make_certificate(tmp_path)!r})\n"
        "asyncio.run(main())\n"
    )
    running = run(start_command, tmp_path, source, options=["--loop", kind])
    running.everybody_answers(running.port(), tls=True)
    assert running.program.finish() == 0


@pytest.mark.slow
def test_a_port_of_its_own_is_the_programs(start_command, tmp_path):
    # With reuse_port the kernel spreads connections over sockets of the workers' own.
    source = ANSWER.replace('"127.0.0.1", 0', '"127.0.0.1", int(sys.argv[1]), reuse_port=True')
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]
        running = run(start_command, tmp_path, source + "asyncio.run(main())", str(port))
        running.ready()
        running.everybody_answers(port)
    assert "listens on" not in running.program.stderr


@pytest.mark.slow
def test_policy_shared(start_command, tmp_path):
    running = run(start_command, tmp_path, ANSWER + "asyncio.run(main())", options=["--policy", "shared"])
    running.everybody_answers(running.port())
    assert running.program.finish() == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("way", ["asyncio.run", "uvloop.run"])
def test_a_program_that_holds_its_readiness_serves_once_it_says_that_it_is_ready(
    start_command, tmp_path, policy, way
):
    source = f"""{ANSWER}
import everycore, {way.partition(".")[0]}
everycore.current_worker().hold_ready()
signal.signal(signal.SIGUSR1, lambda *_: everycore.ready())
print("pid", os.getpid(), flush=True)
{way}(main())
"""
    running = run(start_command, tmp_path, source, workers=1, options=["--policy", policy])
    port = int(running.listens().rpartition(":")[2])
    os.kill(int(running.program.expect(r"pid (\d+)")[1]), signal.SIGUSR1)
    running.ready()
    running.everybody_answers(port)
    assert running.program.finish() == 0
