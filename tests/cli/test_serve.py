"""`everycore serve` with real processes: traffic, replacement, the forms of --bind."""

import http.client
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.kit import scaled
from tests.kit.folders import EXAMPLES
from tests.kit.serving import Served, command, wait_serving

pytestmark = pytest.mark.slow

# Traffic


def test_connections_in_turn(serve):
    """Level except for a worker that is late at the end: one that is skipped gets its turn later."""
    served = serve(workers=3)
    shares = Counter(served.get() for _ in range(60)).values()
    assert len(shares) == 3
    assert max(shares) - min(shares) <= 2
    assert served.program.finish() == 0


def test_requests_of_one_connection_stay_with_its_worker(serve):
    served = serve()
    connection = served.connect()
    answers = set()
    for _ in range(5):
        connection.request("GET", "/")
        answers.add(connection.getresponse().read())
    connection.close()
    assert len(answers) == 1


def test_client_address_is_the_clients(serve):
    served = serve()
    connection = served.connect()
    connection.connect()
    host, port = connection.sock.getsockname()
    connection.request("GET", "/address")
    assert connection.getresponse().read().decode() == f"{host} {port}"
    connection.close()


def test_websocket(serve):
    source = """
        async def app(scope, receive, send):
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                event = await receive()
                await send({"type": "websocket.send", "text": event["text"] + "!"})
                await receive()
    """
    served = serve(source=source)
    with connect_websocket(f"ws://127.0.0.1:{served.port}/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello!"


def test_state_of_the_lifespan_reaches_requests(serve):
    source = """
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                scope["state"]["greeting"] = b"hello"
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
                return
            body = scope["state"]["greeting"]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
    """
    assert serve(source=source).get() == "hello"


def test_wsgi(serve):
    source = """
        def app(environ, start_response):
            print("seen by wsgi", file=environ["wsgi.errors"], flush=True)
            body = environ["wsgi.input"].read() + environ["REMOTE_ADDR"].encode()
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [body]
    """
    served = serve(source=source)
    connection = served.connect()
    connection.request("POST", "/", body=b"from ")
    assert connection.getresponse().read() == b"from 127.0.0.1"
    connection.close()
    served.program.expect("seen by wsgi", stream="stderr")
    assert served.program.stdout == ""
    assert served.program.finish() == 0


def test_factory(serve):
    source = """
        def make():
            async def app(scope, receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"made"})
            return app
    """
    assert serve("--factory", source=source, app="main:make").get() == "made"


def test_application_that_could_be_called_without_arguments_is_not(serve):
    source = """
        async def app(*args):
            scope, receive, send = args
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})
    """
    served = serve(source=source)
    assert served.get() == "fine"
    assert served.program.finish() == 0
    assert "never awaited" not in served.program.stderr


def test_access_log(serve):
    served = serve("--access-log", workers=1)
    served.get("/address")
    served.program.expect(r'\[worker 1\] INFO 127.0.0.1:\d+ - "GET /address HTTP/1.1" 200', stream="stderr")


def test_counts_are_shown(serve):
    served = serve("--show-counts")
    for _ in range(4):
        served.get()
    served.program.expect("worker 1: 2  worker 2: 2")


@pytest.mark.parametrize("app", ["hello:app", "hello_wsgi:app"])
def test_hello_examples(serve, app):
    served = serve("--app-dir", str(EXAMPLES), app=app)
    answers = sorted(served.get() for _ in range(2))
    assert re.fullmatch(r"hello from worker 1 \(process \d+\)\nhello from worker 2 .*\n", "".join(answers))


def test_websocket_example(serve):
    served = serve("--app-dir", str(EXAMPLES), app="websocket_echo:app")
    with connect_websocket(f"ws://127.0.0.1:{served.port}/") as websocket:
        for message in ("text", b"bytes"):
            websocket.send(message)
            assert websocket.recv() == message


# Workers


def test_dead_worker_is_replaced(serve):
    served = serve()
    os.kill(served.program.descendants()[0], signal.SIGKILL)
    found = served.program.expect(r"worker (\d) \(slot \d\) ended: killed by SIGKILL", stream="stderr")
    while "3" not in (answers := {served.get() for _ in range(2)}):
        pass
    assert found[1] not in answers
    assert served.program.finish() == 0


def test_workers_know_nothing_of_the_terminal(serve):
    served = serve()
    workers = served.program.descendants()
    assert len(workers) == 2
    for pid in workers:
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        assert os.getpgid(pid) == pid


def test_number_of_workers_from_the_environment(serve, start):
    program = start(env={"WEB_CONCURRENCY": "1"})
    program.expect(r"starting 1 worker \(WEB_CONCURRENCY\)", stream="stderr")
    wait_serving(program)
    assert len(program.descendants()) == 1


def test_auto_says_which_bound_won(start):
    program = start(env={"PYTHON_CPU_COUNT": "2"})
    program.expect(r"starting 2 workers \(auto: PYTHON_CPU_COUNT\)", stream="stderr")


def test_the_working_directory_shadows_nothing_of_everycore(serve, tmp_path):
    # -m would put it first on sys.path, before everycore has imported anything.
    (tmp_path / "signal.py").write_text("raise RuntimeError('not the signal module')")
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('not msgspec')")
    served = serve()
    assert served.get() in ("1", "2")


# Forms of --bind


def test_several_binds(start, tmp_path):
    program = start("--workers", "1", "--bind", "127.0.0.1:0", "--bind", f"unix:{tmp_path}/socket")
    line = program.expect("serving main:app on (.*)", stream="stderr")[1]
    *urls, unix = line.split(", ")
    assert unix == f"unix:{tmp_path}/socket"
    for url in urls:
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"1"
        connection.close()
    assert len(set(urls)) == 2


def test_unix_socket_is_removed_at_the_end(start_command, tmp_path, serve):
    served = serve("--bind", "unix:socket")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert served.program.finish() == 0
    assert not path.exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6(start):
    program = start("--bind", "[::1]:0", "--workers", "1")
    port = int(program.expect(r"http://\[::1\]:(\d+)", stream="stderr")[1])
    connection = http.client.HTTPConnection("::1", port, timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"1"
    connection.close()


def test_inherited_descriptor(start_program, tmp_path):
    source = """
        import os, socket, sys
        sock = socket.create_server(("127.0.0.1", 0))
        sock.set_inheritable(True)
        argv = [word.replace("fd://N", f"fd://{sock.fileno()}") for word in sys.argv[1:]]
        os.execv(argv[0], argv)
    """
    (tmp_path / "main.py").write_text("async def app(scope, receive, send):\n    raise RuntimeError")
    argv = command("--workers", "1")
    argv[argv.index("127.0.0.1:0")] = "fd://N"
    served = wait_serving(start_program(source, *argv))
    assert served.get() == "Internal Server Error"
    assert served.program.finish() == 0


def test_sockets_of_systemd(start_program, tmp_path):
    source = """
        import os, socket, sys
        sock = socket.create_server(("127.0.0.1", 0))
        os.dup2(sock.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        os.execv(sys.argv[1], sys.argv[1:])
    """
    (tmp_path / "main.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    body = b'inherited' if 'LISTEN_FDS' in os.environ else b'clean'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    argv = command("--workers", "1")
    at = argv.index("--bind")
    served = wait_serving(start_program(source, *argv[:at], *argv[at + 2 :]))
    assert served.get() == "clean"
    assert served.program.finish() == 0


# stdout without a reader


@pytest.mark.parametrize("close", ["os.dup2(writer, 1)", "os.close(1)"], ids=["pipe", "closed"])
def test_closed_stdout_does_not_stop_serving(start_program, tmp_path, close):
    source = f"""
        import os, sys
        reader, writer = os.pipe()
        {close}
        os.closerange(3, 20)
        os.execv(sys.argv[1], sys.argv[1:])
    """
    (tmp_path / "main.py").write_text("async def app(scope, receive, send):\n    raise RuntimeError")
    served = wait_serving(start_program(source, *command("--workers", "2", "--show-counts")))
    for _ in range(3):
        served.get()
    assert served.program.finish() == 0
    assert "Broken pipe" not in served.program.stderr
    assert "BrokenPipeError" not in served.program.stderr


@pytest.mark.parametrize("closed", [1, 2], ids=["stdout", "stderr"])
@pytest.mark.parametrize("what", ["serve", "run"])
def test_a_closed_standard_stream_never_becomes_a_connection_in_a_worker(
    start_program, tmp_path, what, closed
):
    """It is /dev/null, in the worker too: otherwise a library that writes there would write to a client."""
    streams = "b' '.join(os.readlink(f'/proc/self/fd/{fd}').encode() for fd in range(3))"
    (tmp_path / "main.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': raise RuntimeError\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        f"    await send({{'type': 'http.response.body', 'body': {streams}}})\n"
    )
    (tmp_path / "program.py").write_text(
        "import os, socketserver, sys\n"
        "class Handler(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        self.request.recv(1000)\n"
        "        self.request.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + " + streams + ")\n"
        "class Server(socketserver.TCPServer):\n"
        "    allow_reuse_address = True\n"
        "Server(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    everycore = [sys.executable, "-P", "-m", "everycore", what, "--workers", "1"]
    if what == "serve":
        argv = [*everycore, "--bind", f"127.0.0.1:{port}", "main:app"]
    else:
        argv = [*everycore, str(tmp_path / "program.py"), str(port)]
    program = start_program(f"import os, sys\nos.close({closed})\nos.execv(sys.argv[1], sys.argv[1:])", *argv)
    served = Served(program, port)
    assert until_answered(served).split()[closed] == "/dev/null"
    assert program.finish() == 0


def until_answered(served: Served) -> str:
    """The answer to the first request that is not refused: with closed streams it prints nothing."""
    deadline = time.monotonic() + scaled(20)
    while True:
        try:
            return served.get()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            assert served.program.is_running
            threading.Event().wait(0.02)
