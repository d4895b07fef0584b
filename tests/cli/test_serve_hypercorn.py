"""`everycore serve --engine hypercorn`, with real workers: HTTP/1.1, HTTP/2, WebSockets and HTTP/3."""

import asyncio
import signal
import socket
import sys

import pytest

from everycore.foreign.hypercorn_internals import capabilities
from everycore.ops.job import Job
from tests.kit import scaled
from tests.kit.http2_clients import Http2Connection, ask_often
from tests.kit.http_clients import Crowd, leaves
from tests.kit.running import make_certificate
from tests.kit.serving import Served

#: Names the process that answers, and its version; a WebSocket is open until either side closes it.
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
        os.write(1, b"shut down\\n")
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    body = b"%d" % os.getpid()
    if scope["path"].endswith("/what"):
        who = scope["client"] and scope["client"][0]
        body = f"{scope['http_version']} {scope['scheme']} {scope['path']} {who}".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def tls(tmp_path):
    path = make_certificate(tmp_path)
    return ["--ssl-certfile", path]


@pytest.fixture
def serve_hypercorn(start):
    """Start it, and wait until it serves."""

    def serve_it(*options: str, workers: int = 2) -> Served:
        program = start("--engine", "hypercorn", "--workers", str(workers), *options, source=APP)
        found = program.expect(r"serving .* on https?://127\.0\.0\.1:(\d+)", stream="stderr")
        program.expect("ready: all", stream="stderr")
        return Served(program, int(found[1]))

    return serve_it


@pytest.mark.ci_only
@pytest.mark.parametrize(
    ("policy", "loop", "with_tls"), [("round_robin", "asyncio", True), ("shared", "uvloop", False)]
)
@pytest.mark.skipif(not capabilities().goaway, reason="nobody tells the clients without it")
@pytest.mark.limit(120)
async def test_no_request_of_http2_is_lost_when_one_leaves(serve_hypercorn, tls, policy, loop, with_tls):
    served = serve_hypercorn("--policy", policy, "--loop", loop, "--grace", "20", *(tls if with_tls else ()))
    over = asyncio.Event()
    answered: asyncio.Queue[bytes] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        clients = [
            group.create_task(ask_often(served.port, over, answered, tls=with_tls, at_once=at_once))
            for at_once in (1, 1, 4, 4)
        ]
        leaving = await answered.get()
        await leaves(int(leaving))
        while not answered.empty():
            answered.get_nowait()
        others = {await answered.get() for _ in range(20)}
        over.set()
    assert leaving not in others
    assert sum(client.result() for client in clients) > len(clients)  # some client had to open a second one
    assert served.program.finish(signal.SIGINT) == 0
    assert served.program.stdout.count("shut down") >= 2


@pytest.mark.limit(120)
async def test_no_request_of_http1_is_lost_and_websockets_are_told(serve_hypercorn):
    served = serve_hypercorn("--grace", "10")
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.3), 12)
        crowd.add(crowd.websocket(again=True), 4)
        await crowd.all_there()
        await crowd.busiest_leaves()
        await crowd.answered(12)
        assert crowd.tally.lost == crowd.tally.unserved == []
        assert crowd.tally.closed > 0
        assert set(crowd.tally.codes) <= {1012}
    assert served.program.finish(signal.SIGINT) == 0


async def test_a_reload_and_what_uvicorns_options_do(serve_hypercorn, tls):
    served = serve_hypercorn(
        *tls, "--root-path", "/api", "--header", "X-A: b", "--no-server-header", "--access-log", workers=1
    )
    port = served.port
    connection = await Http2Connection.open(port, tls=True)
    head, body = await connection.begin("/what?x=1")
    assert body == b"2 https /api/what 127.0.0.1"
    assert (head["x-a"], "server" in head, "date" in head) == ("b", False, True)
    served.program.expect(r'127\.0\.0\.1:\d+ - "GET /api/what\?x=1 HTTP/2" 200', stream="stderr")
    await connection.close()
    served.program.signal(signal.SIGHUP)
    served.program.expect("reload 1: all workers are new", stream="stderr")
    connection = await Http2Connection.open(port, tls=True)
    assert (await connection.ask("/what")).startswith(b"2 https")
    await connection.close()
    assert served.program.finish(signal.SIGINT) == 0


def test_a_unix_socket_of_one_process_without_a_cluster(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    job = Job("main:app", ["unix:app.sock"], app_dir=str(tmp_path), engine_name="hypercorn", grace=5.0)
    program = start_command([sys.executable, "-P", "-m", "everycore.servers", job.text()])
    program.expect("serving on .*app.sock", stream="stderr")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(scaled(20))
        sock.connect(str(tmp_path / "app.sock"))
        sock.sendall(b"GET /what HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as answer:
            assert next(line for line in answer if line == b"\r\n")
            assert answer.read(19) == b"1.1 http /what None"
            assert program.finish(signal.SIGTERM) == 0
            assert answer.read() == b""
    assert program.stdout.count("shut down") == 1


async def test_http3(serve_hypercorn, tls):
    pytest.importorskip("aioquic")
    from tests.kit.http3_clients import ask_http3

    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    served = serve_hypercorn(*tls, "--quic-bind", f"127.0.0.1:{port}", "--surge", "0", workers=1)
    connection = await Http2Connection.open(served.port, tls=True)
    head, _ = await connection.begin()
    assert head["alt-svc"] == f'h3=":{port}"; ma=3600'
    await connection.close()
    assert await ask_http3(port, "/what") == b"3 https /what 127.0.0.1"
    assert served.program.finish(signal.SIGINT) == 0
