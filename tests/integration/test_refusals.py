"""A listen that no kernel would accept is refused, however it came, and leaves nothing in the primary."""

import pytest

from tests.kit.traffic import agents

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

ASK = """
import dataclasses, msgspec
from everycore.core import wire

def request(**different):
    fields = dict(
        request=0, address=["127.0.0.1", 0], family=socket.AF_INET, kind=socket.SOCK_STREAM,
        fd=None, backlog=10, v6only=True, mode=None, start=True,
    )
    return wire.Listen(**fields | different)

async def ask(way, **different):
    if way == "channel":
        async with asyncio.timeout(10):
            return await inside.listen(request(**different))
    return inside.grants.listen_blocking(request(**different), 10)
"""

WRONG = {
    "a path for a host": "address='x'",
    "a path for a host of IPv6": "address='x', family=socket.AF_INET6",
    "a host for a path": "family=socket.AF_UNIX",
    "nothing": "address=None",
    "a host that is no number": "address=['nowhere.invalid', 0]",
    "a NUL in a host": "address=['127.0.0.1\\0', 0]",
    "a NUL in a path": "address='/a\\0b', family=socket.AF_UNIX",
    "an IPv6 address for IPv4": "address=['::1', 0, 0, 0]",
    "a port that is none": "address=['127.0.0.1', 99999999]",
    "a number too large for a family": "family=2**40",
    "a number too large for a kind": "kind=2**40",
    "a number too large for a backlog": "backlog=2**40",
    "a number too large for a descriptor": "address=None, fd=2**40",
    "no descriptor": "address=None, fd=-1",
}


@pytest.mark.parametrize("way", ["channel", "link"])
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
async def test_each_is_answered_and_leaves_no_listener(tmp_path, way, policy):
    async with agents(tmp_path, 1, policy=policy) as (cluster, worker):
        await worker.do(ASK)
        answers = {}
        for what, different in WRONG.items():
            error = await worker.fails(f"await ask({way!r}, {different})")
            answers[what] = error.classes[0], error.errno is not None
            assert cluster.snapshot().listeners == (), what
        assert {what for what, (kind, _) in answers.items() if kind == "TimeoutError"} == set()
        assert all(has_errno for _, has_errno in answers.values()), answers
        await worker.do(f"(await ask({way!r})).close()")  # and it may go on
        assert worker.worker.is_connected()
