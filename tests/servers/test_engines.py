"""uvicorn as the engine: what its end waits for. Time is virtual, so a wait for nothing shows."""

import asyncio
import socket

import pytest

from everycore.foreign.uvicorn_internals import capabilities
from everycore.servers.departing import LOOK
from everycore.servers.engines import Engine
from everycore.testing import VirtualTimeLoop

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: Seconds after the begin: not a multiple of any check's interval.
ASKED_AT = 1.234
#: How long uvicorn's own shutdown waits for connections that everycore cannot see, in seconds.
UVICORNS = 0.0 if capabilities().handover else 0.1


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


async def app(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class FakeExit:
    """Asks for the end at `ASKED_AT`; a human waits for it."""

    is_alone = False
    spares_idle = False
    may_hand_on = is_undecided = False
    open = 0
    deadline = ASKED_AT + 20.0

    async def asked(self):
        await asyncio.get_running_loop().create_task(pass_until(ASKED_AT))

    def hand_on(self, fd):
        raise AssertionError

    def take_over(self, _new, _began):
        pass


async def pass_until(moment):
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()
    loop.call_at(moment, reached.set)
    await reached.wait()


async def serve_to_the_end(visit=None):
    """Returns how long the end took, in seconds, while `visit` uses a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.Event()
        engine = Engine(app, access_log=False, spread=None, options={})
        served = asyncio.ensure_future(engine.serve([listener], serving.set, FakeExit()))
        await serving.wait()
        if visit is not None:
            await visit(listener.getsockname()[1])
        await served
    return asyncio.get_running_loop().time() - ASKED_AT


async def test_the_end_of_an_idle_engine_waits_for_nothing():
    assert await serve_to_the_end() == pytest.approx(LOOK + UVICORNS)


async def test_the_end_of_its_last_connection_is_the_end():
    writers = []

    async def visit(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")

    assert await serve_to_the_end(visit) == pytest.approx(LOOK + (UVICORNS or LOOK))
    (writer,) = writers
    writer.close()
    await writer.wait_closed()


async def test_until_then_it_serves():
    answers = []

    async def visit(port):
        for moment in (0.0, 1.1):
            await pass_until(moment)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST.replace(b"1.1", b"1.0"))
            answers.append(await reader.read())
            writer.close()
            await writer.wait_closed()

    await serve_to_the_end(visit)
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 204"] * 2
