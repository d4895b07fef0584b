"""What clients notice when a worker of `everycore serve` leaves, or all of them do."""

import asyncio
import os
import signal

import pytest

from tests.cli.http_clients import Crowd
from tests.kit import processes

#: Says who answers. A WebSocket at /ws is open until the client or the server closes it; /stream sends events;
#: /hold answers once the test lets it, by a connection to the port in the query.
APP = """
import asyncio, os

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
            await send({"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True})
            await asyncio.sleep(0.01)
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

async def gone(pid: int) -> None:
    """Waits until this process has ended, while the clients go on."""
    assert await asyncio.to_thread(processes.wait_gone, [pid]) == []


BOTH_POLICIES = pytest.mark.parametrize("policy", ["round_robin", "shared"])
BOTH_LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@BOTH_POLICIES
@BOTH_LOOPS
async def test_a_stop_loses_no_request_of_a_client_that_is_connected(serve, policy, loop):
    served = serve("--policy", policy, "--loop", loop, "--grace", "10", "--spread", "1", source=APP)
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(2.5), 30)
        crowd.add(crowd.new_each_time(0.05), 2)
        crowd.add(crowd.websocket(), 10)
        await crowd.all_there()
        crowd.is_stopping = True
        served.program.signal()
        await crowd.gone()
        assert crowd.tally.lost == []
        assert crowd.tally.codes == {1012: 10}
        assert crowd.tally.closed > 0
    assert served.program.wait() == 0


@BOTH_POLICIES
@BOTH_LOOPS
async def test_nobody_notices_that_one_worker_leaves(serve, policy, loop):
    served = serve("--policy", policy, "--loop", loop, "--grace", "10", source=APP)
    async with Crowd(served.port) as crowd:
        crowd.add(crowd.kept_alive(0.5), 40)
        await crowd.all_there()
        (busiest, _), *_ = crowd.tally.workers.most_common()
        os.kill(int(busiest), signal.SIGTERM)
        await gone(int(busiest))
        await crowd.answered(40)
        assert crowd.tally.lost == []
        assert crowd.tally.closed == 0
        assert len(crowd.tally.workers) >= 2
    assert served.program.finish() == 0
