"""The last worker that is asked to leave serves all connections that had come, even beyond its belt."""

import asyncio
import resource
import socket
from collections import Counter

import pytest

from tests.kit import open_fds, scaled, turn
from tests.kit.crowds import agents, both_loops, serve_by
from tests.kit.trouble import descriptor_limit, ordinary_user
from tests.kit.workers import within

pytestmark = [pytest.mark.slow, pytest.mark.limit(90)]

PENDING = 1500

BRIEF = """
async def brief(reader, writer):
    writer.write(b"served")
    writer.close()
"""


@both_loops
@pytest.mark.parametrize("when_no_worker", ["refuse", "hold"])
@pytest.mark.parametrize("numbers", [40, 1024])
async def test_all_are_served_in_portions(tmp_path, loop, when_no_worker, numbers):
    """They wait behind a worker that blocks; the primary runs as an ordinary user with few descriptors."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < PENDING + 1500:
        pytest.skip("not enough descriptors for the clients")
    options = {"loop": loop, "grace": scaled(30), "when_no_worker": when_no_worker, "policy": "round_robin"}
    clients: list[socket.socket] = []
    try:
        async with agents(tmp_path, 1, **options) as (cluster, only):
            address = await serve_by([only], "brief", BRIEF)
            with descriptor_limit(PENDING + 1500):
                async with only.standing_still() as go_on:
                    clients += [socket.create_connection(address, timeout=scaled(20)) for _ in range(PENDING)]
                    with descriptor_limit(max(open_fds()) + 1 + numbers), ordinary_user():
                        leaving = asyncio.create_task(cluster.disconnect())
                        await turn(5)
                        go_on()
                        await within(leaving, 40)
        assert Counter(map(answer, clients)) == {b"served": PENDING}
    finally:
        for client in clients:
            client.close()


def answer(client: socket.socket) -> bytes:
    try:
        return client.recv(100)
    except ConnectionResetError:
        return b"reset"
