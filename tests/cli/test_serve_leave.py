"""What clients notice when one worker of `everycore serve` leaves, or all of them.

Under load: test_under_load.
"""

import asyncio
import contextlib
import re
import signal
import socket
import sys
import time

import pytest

from everycore import Pool, Ready, Settings
from everycore.ops.job import Job
from tests.kit import scaled
from tests.kit.http_clients import REQUEST, Crowd, read_answer

pytestmark = pytest.mark.slow

#: Names the process that answers. A WebSocket stays open until either side closes it; /stream sends events;
#: /read reads the body first; /leave makes the worker leave.
APP = """
import asyncio, everycore, os

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    if scope["path"] == "/stream":
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            await send({"type": "http.response.body", "body": b"data: an event\\n\\n", "more_body": True})
            await asyncio.sleep(0.01)
    if scope["path"] == "/read":
        while (await receive()).get("more_body"):
            pass
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    if scope["path"] == "/leave":
        everycore.current_worker().disconnect()
"""
#: The same without httptools: uvicorn takes h11 then.
ON_H11 = f"import sys\nsys.modules['httptools'] = None\n{APP}"
#: uvicorn's, in seconds.
KEEP_ALIVE = 5.0


BOTH_POLICIES = pytest.mark.parametrize("policy", ["round_robin", "shared"])
BOTH_LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@BOTH_POLICIES
@BOTH_LOOPS
async def test_no_client_notices_that_one_worker_leaves(serve, policy, loop):
    served = serve("--policy", policy, "--loop", loop, "--grace", "10", source=APP)
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.5), 40)
        await crowd.all_there()
        await crowd.busiest_leaves()
        await crowd.answered(40)
        assert crowd.tally.lost == crowd.tally.unserved == []
        assert crowd.tally.closed == 0
        assert len(crowd.tally.workers) >= 2
    assert served.program.finish(signal.SIGINT) == 0


async def test_no_client_notices_it_with_h11_either(serve):
    served = serve("--grace", "10", source=ON_H11)
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.3), 20)
        await crowd.all_there()
        await crowd.busiest_leaves()
        await crowd.answered(40)
        assert crowd.tally.lost == crowd.tally.unserved == []
        assert crowd.tally.closed == 0
        assert len(crowd.tally.workers) == 2
    assert served.program.finish(signal.SIGINT) == 0


async def test_without_the_inside_of_uvicorn_nothing_is_lost_either(serve):
    served = serve("--grace", "10", source=APP, env={"EVERYCORE_WITHOUT": "uvicorn"})
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.5), 20)
        await crowd.all_there()
        await crowd.busiest_leaves()
        await crowd.answered(40)
        assert crowd.tally.lost == crowd.tally.unserved == []
        assert crowd.tally.closed > 0
    assert served.program.finish(signal.SIGINT) == 0


@pytest.mark.parametrize("how", ["disconnect", "scale"])
async def test_it_does_not_matter_whether_a_worker_leaves_by_itself(tmp_path, how):
    (tmp_path / "main.py").write_text(APP)
    job = Job("main:app", ["127.0.0.1:0"], app_dir=str(tmp_path), grace=10.0)
    command = [sys.executable, "-P", "-m", "everycore.servers", job.text()]
    settings = Settings(exec=command, stdio=("null", "inherit", "inherit"))
    async with Pool(2, settings=settings, grace=10.0) as pool:
        async with asyncio.timeout(scaled(30)):
            async for _ in pool.events(Ready):
                if sum(worker.is_ready for worker in pool.workers.values()) == 2:
                    break
        async with Crowd(pool.snapshot().listeners[0].address[1]) as crowd:
            crowd.add(crowd.kept_alive(0.2), 10)
            await crowd.all_there()
            leaving = pool.workers[max(pool.workers)]
            if how == "scale":
                pool.scale(1)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", crowd.port)
                writer.write(b"GET /leave HTTP/1.0\r\n\r\n")
                _, pid = await read_answer(reader)
                writer.close()
                (leaving,) = [worker for worker in pool.workers.values() if worker.pid == int(pid)]
            async with asyncio.timeout(scaled(30)):
                await leaving.wait()
            await crowd.answered(20)
            assert crowd.tally.lost == crowd.tally.unserved == []
            assert crowd.tally.closed == 0
        pool.stop(spares_idle=False)
        await pool.wait()


class Raw:
    """A connection on which the test decides what is sent and when."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=scaled(20))
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)

    def answer(self):
        """Head and body of the next answer; the head is empty at the end of the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            if not line:
                assert not head
                return b"", b""
            head += line
        (size,) = re.findall(rb"content-length: (\d+)", head)
        return head.lower(), self.file.read(int(size))

    def close(self):
        self.file.close()
        self.sock.close()


@pytest.fixture
def connect():
    """Make `Raw` connections, and close them."""
    with contextlib.ExitStack() as stack:

        def connect_to(served):
            raw = Raw(served.port)
            stack.callback(raw.close)
            return raw

        yield connect_to


def leave(served, connect):
    """Stop it. Returns when its one worker knows: its answers to a client that keeps asking say so."""
    canary = connect(served)
    canary.send(REQUEST)
    assert b"connection: close" not in canary.answer()[0]
    served.program.signal()
    while True:
        canary.send(REQUEST)
        if b"connection: close" in canary.answer()[0]:
            return


POST = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize(
    ("before", "after", "answers"),
    [
        pytest.param(b"", REQUEST, 1, id="nothing yet"),
        pytest.param(REQUEST[:9], REQUEST[9:], 1, id="half a head"),
        pytest.param(POST[:-2], POST[-2:], 1, id="half a body"),
        pytest.param(b"", b"GET / HTTP/1.0\r\n\r\n", 1, id="HTTP/1.0"),
        pytest.param(b"", 5 * REQUEST, 5, id="five pipelined"),
        pytest.param(REQUEST, REQUEST, 2, id="kept alive"),
    ],
)
def test_what_a_client_had_begun_is_answered(serve, connect, http, before, after, answers):
    served = serve("--grace", "10", workers=1, source=ON_H11 if http == "h11" else APP)
    client = connect(served)
    client.send(before)
    got = [client.answer()] if before == REQUEST else []
    leave(served, connect)
    client.send(after)
    got += [client.answer() for _ in range(answers - len(got))]
    assert all(head.startswith(b"http/1.1 200") for head, _ in got)
    assert [b"connection: close" in head for head, _ in got] == [False] * (answers - 1) + [True]
    assert client.answer() == (b"", b"")
    assert served.program.wait() == 0


def test_an_answer_that_comes_before_the_body_of_its_request_arrives(serve, connect):
    """If something were unread at the close, the connection would be reset, and the answer lost."""
    served = serve("--grace", "10", workers=1, source=APP)
    size = 20_000_000
    client = connect(served)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % size)
    leave(served, connect)
    client.send(b"\r\n" + bytes(size))
    assert b"connection: close" in client.answer()[0]
    assert client.answer() == (b"", b"")
    assert served.program.wait() == 0


def test_an_event_stream_ends_between_two_events(serve, connect):
    served = serve("--grace", "10", "--spread", "0", workers=1, source=APP)
    client = connect(served)
    client.send(b"GET /stream HTTP/1.0\r\n\r\n")
    assert client.file.readline().startswith(b"HTTP/1.1 200")
    while client.file.readline() != b"\r\n":
        pass
    assert client.file.readline() == b"10\r\n"  # in chunks, whatever the client speaks
    served.program.signal()
    rest = client.file.read()
    assert rest.endswith(b"data: an event\n\n\r\n0\r\n\r\n")
    assert served.program.wait() == 0
    assert "Traceback" not in served.program.stderr


def test_what_outlasts_the_grace_is_named(serve, connect):
    served = serve("--grace", "1", workers=1, source=APP)
    client = connect(served)
    client.send(POST[:-2])
    served.program.signal()
    assert client.answer()[0].startswith(b"http/1.1 500")
    assert served.program.wait() == 0
    assert "the grace is over: cut off POST /read from 127.0.0.1:" in served.program.stderr


def test_a_human_does_not_wait_for_idle_connections(serve, connect):
    """An idle client's connection: TERM gives it the keep-alive time."""
    served = serve("--grace", "60", workers=1, source=APP)
    client = connect(served)
    client.send(REQUEST)
    client.answer()
    began = time.monotonic()
    served.program.signal(signal.SIGINT)
    assert client.answer() == (b"", b"")
    assert time.monotonic() - began < KEEP_ALIVE
    assert served.program.wait() == 0


@pytest.mark.soak
@pytest.mark.limit(1200)
@BOTH_POLICIES
@BOTH_LOOPS
async def test_ten_times_one_worker_leaves_under_load(serve, policy, loop):
    """Each time the worker that answered last leaves; its clients go on with others, and notice nothing."""
    served = serve("--policy", policy, "--loop", loop, "--grace", "12", source=APP)
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.3), 50)
        crowd.add(crowd.new_each_time(0.02), 4)
        await crowd.all_there()
        for _ in range(10):
            crowd.tally.workers.clear()
            await crowd.answered(50)
            await crowd.busiest_leaves()
            await crowd.answered(50)
            assert crowd.tally.lost == crowd.tally.unserved == []
            await both_serve(crowd)
        assert crowd.tally.closed == 0
    assert served.program.finish(signal.SIGINT) == 0


async def both_serve(crowd):
    """Wait until the replacement serves, and a client has found it."""
    crowd.tally.workers.clear()
    async with asyncio.timeout(scaled(30)):
        while len(crowd.tally.workers) < 2:
            await crowd.answered(1)
