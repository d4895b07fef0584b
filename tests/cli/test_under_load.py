"""Stops and reloads of `serve` and `run` with clients of every kind: what each kind loses.

New connections at a steady rate, connections that are kept alive, WebSockets. Every run has a short form; the
long one, twenty times in a row, is a soak test.
"""

import asyncio
import signal
from collections import Counter

import pytest

from tests.kit.http_clients import Crowd, ask_http, ask_line
from tests.kit.processes import wait_gone
from tests.kit.running import run
from tests.kit.serving import Served

#: Answers with the generation of the worker; a WebSocket is open until either side closes it.
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    body = os.environ["EVERYCORE_GENERATION"].encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
#: Answers each line with its generation, until the client has no more to say.
LINES = """
import asyncio, os

async def converse(reader, writer):
    while await reader.readline():
        writer.write(os.environ["EVERYCORE_GENERATION"].encode() + b"\\n")
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()

asyncio.run(main())
"""
#: uvicorn with its own signal handlers, on a loop of its choice.
UVICORN = f"""
{APP}
import uvicorn
uvicorn.run(app, port=0, loop="LOOP", log_level="error")
"""
#: uvicorn's keep-alive time-out, in seconds: a reasonable client pauses for less.
KEEP_ALIVE = 5.0


def forms(times: int, *, pairs: int = 2):
    """Policy, loop, and repetitions: `times` for some pairs in every run, twenty for all as a soak test."""
    short = [("round_robin", "asyncio", times), ("shared", "uvloop", times)][-pairs:]
    every = [(policy, loop, 20) for policy in ("round_robin", "shared") for loop in ("asyncio", "uvloop")]
    parameters = [
        *(pytest.param(*form, marks=pytest.mark.slow) for form in short),
        *(pytest.param(*form, marks=[pytest.mark.soak, pytest.mark.limit(1200)]) for form in every),
    ]
    return pytest.mark.parametrize(("policy", "loop", "times"), parameters)


def is_long(times: int) -> bool:
    return times == 20


class Kinds:
    """The number and behaviour of clients of each kind. `is_soak`: the numbers of the long form."""

    def __init__(self, *, is_soak: bool, again: bool = False) -> None:
        self.rate, self.kept, self.websockets = (200, 50, 20) if is_soak else (50, 20, 5)
        self.again = again

    def of_serve(self, crowd: Crowd) -> None:
        crowd.add(crowd.kept_alive(KEEP_ALIVE / 2), self.kept)
        self.of_uvicorn(crowd)

    def of_uvicorn(self, crowd: Crowd) -> None:
        """uvicorn itself closes idle connections while clients use them."""
        crowd.add(crowd.newcomers(self.rate, ask_http), 1)
        crowd.add(crowd.websocket(again=self.again), self.websockets)

    def of_lines(self, crowd: Crowd) -> None:
        """The protocol has no message for the end: a client hangs up after its last request."""
        crowd.add(crowd.newcomers(self.rate, ask_line), 1)
        crowd.add(crowd.conversation(5, 0.2, ask_line), self.kept)


# Stops


async def stop(served: Served, crowd: Crowd) -> list[str]:
    """No connected client loses a request. Returns later clients that were neither served nor refused."""
    await crowd.all_there()
    await crowd.answered(crowd.random.randint(1, 100))
    crowd.is_stopping = True
    served.program.signal()
    await crowd.gone()
    assert crowd.tally.lost == crowd.tally.unserved == []
    assert await asyncio.to_thread(served.program.wait) == 0
    return crowd.tally.reset


async def stops(start, kinds, times, *, codes) -> None:
    """`start` starts a service; `kinds` adds its clients. `codes`: the close codes of the WebSockets."""
    ends: Counter[int] = Counter()
    for number in range(times):
        async with Crowd((served := start()).port, seed=number) as crowd:
            kinds(crowd)
            ends[len(await stop(served, crowd))] += 1
            assert crowd.tally.codes == codes
    # A client may connect between the last check of a listener and its end (at most one in ten times).
    assert set(ends) <= {0, 1}, ends
    assert ends[1] <= max(times // 10, 1)


@forms(times=1)
async def test_stops_of_serve(serve, policy, loop, times):
    kinds = Kinds(is_soak=is_long(times))
    options = ("--policy", policy, "--loop", loop, "--grace", "12", "--spread", "1")
    await stops(lambda: serve(*options, source=APP), kinds.of_serve, times, codes={1012: kinds.websockets})


@forms(times=1)
async def test_stops_of_a_program(program, policy, loop, times):
    kinds = Kinds(is_soak=is_long(times))
    await stops(lambda: program(LINES, policy, loop), kinds.of_lines, times, codes={})


@pytest.mark.ci_only
@forms(times=1, pairs=1)
async def test_stops_of_uvicorn_under_run(program, policy, loop, times):
    kinds = Kinds(is_soak=is_long(times))
    source, codes = UVICORN.replace("LOOP", loop), {1012: kinds.websockets}
    await stops(lambda: program(source, policy, loop), kinds.of_uvicorn, times, codes=codes)


@pytest.fixture
def program(start_command, tmp_path):
    """Start a program under `everycore run`."""

    def start_it(source: str, policy: str, loop: str) -> Served:
        options = ["--policy", policy, "--loop", loop, "--grace", "12"]
        running = run(start_command, tmp_path, source, options=options)
        return Served(running.program, running.port())

    return start_it


# Reloads


async def reloads(served, kinds, times) -> None:
    """No client loses anything, and each reload replaces all workers."""
    async with Crowd(served.port) as crowd:
        kinds(crowd)
        await crowd.all_there()
        for number in range(1, times + 1):
            old = served.program.descendants()
            served.program.signal(signal.SIGHUP)
            done = rf"reload {number}: all workers are new"
            await asyncio.to_thread(served.program.expect, done, stream="stderr")
            assert await asyncio.to_thread(wait_gone, old, 30.0) == []
            assert len(served.program.descendants()) == len(old)
            crowd.tally.workers.clear()
            await crowd.answered(20)
            assert set(crowd.tally.workers) == {b"%d" % number}
            assert crowd.tally.lost == crowd.tally.unserved == []
        await crowd.end()
        assert crowd.tally.lost == crowd.tally.unserved == []
        assert set(crowd.tally.codes) <= {1012}
    assert await asyncio.to_thread(served.program.finish) == 0


@pytest.mark.ci_only
@forms(times=2)
async def test_reloads_of_serve(serve, policy, loop, times):
    served = serve("--policy", policy, "--loop", loop, "--grace", "10", "--spread", "0.5", source=APP)
    await reloads(served, Kinds(is_soak=is_long(times), again=True).of_serve, times)


@forms(times=1)
async def test_reloads_of_a_program(program, policy, loop, times):
    await reloads(program(LINES, policy, loop), Kinds(is_soak=is_long(times)).of_lines, times)


@pytest.mark.ci_only
@forms(times=1, pairs=1)
async def test_reloads_of_uvicorn_under_run(program, policy, loop, times):
    served = program(UVICORN.replace("LOOP", loop), policy, loop)
    await reloads(served, Kinds(is_soak=is_long(times), again=True).of_uvicorn, times)
