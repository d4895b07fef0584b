"""Many clients, and how many of them each worker answered.

address = await serve_by([one, two], "slow", SLOW)    # SLOW defines the handler `slow`, in every worker
tally = Counter(await burst(address, 100))
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from everycore import Cluster
from tests.kit import scaled, traffic
from tests.kit.traffic import RECALL, Agent, Client, close_all

#: Node's SCHED_RR and SCHED_NONE: what holds under both policies is tested under both.
both_policies = pytest.mark.parametrize("policy", ["round_robin", "shared"])
#: The values of `loop` for a worker's `everycore.run(main(), loop=)`.
both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
#: For tests of the primary, or of a thread that accepts: the event loop plays no part there.
one_loop = pytest.mark.parametrize("loop", ["asyncio"])
#: For tests that depend on the policy and on the loop separately: each value occurs once. Continuous
#: integration runs the other two pairs.
each_once = pytest.mark.parametrize(
    ("policy", "loop"),
    [
        ("round_robin", "uvloop"),
        ("shared", "asyncio"),
        pytest.param("round_robin", "asyncio", marks=pytest.mark.ci_only),
        pytest.param("shared", "uvloop", marks=pytest.mark.ci_only),
    ],
)

#: The agents' `greet`, with a count.
COUNTED = """
served = 0

async def counted(reader, writer):
    global served
    served += 1
    await greet(reader, writer)

"""


def agents(
    folder: Path, count: int = 1, *, loop: str = "asyncio", recall_after: float = RECALL, **options: Any
) -> contextlib.AbstractAsyncContextManager[Any]:
    """As `traffic.agents`, on that kind of event loop. A worker that blocks loses what lies on its belt."""
    return traffic.agents(folder, count, loop=loop, recall_after=recall_after, **options)


def servers(
    folder: Path, count: int, *, loop: str = "asyncio", recall_after: float = RECALL, **options: Any
) -> contextlib.AbstractAsyncContextManager[tuple[Cluster, list[Agent], tuple[str, int]]]:
    """As `agents`, when all of them serve one port."""
    return traffic.servers(folder, count, loop=loop, recall_after=recall_after, **options)


def shared_agents(
    folder: Path, loop: str, count: int = 1, **options: Any
) -> contextlib.AbstractAsyncContextManager[Any]:
    """`agents` under the policy `shared`."""
    return agents(folder, count, policy="shared", loop=loop, **options)


def shared_servers(
    folder: Path, loop: str, count: int, **options: Any
) -> contextlib.AbstractAsyncContextManager[tuple[Cluster, list[Agent], tuple[str, int]]]:
    """`servers` under the policy `shared`."""
    return servers(folder, count, policy="shared", loop=loop, **options)


async def serve_by(workers: Sequence[Agent], handler: str, source: str) -> tuple[str, int]:
    """Let all workers serve one port with the handler of that name in `source`. Returns the address."""
    port = 0
    for worker in workers:
        await worker.do(
            f"{source}\n"
            f"server = await asyncio.start_server({handler}, '127.0.0.1', port, backlog=2048)\n"
            "port = server.sockets[0].getsockname()[1]",
            port=port,
        )
        port = await worker.get("port")
    return "127.0.0.1", port


async def ask(address: Any, tally: Counter[int] | None = None) -> int:
    """Open one connection. Returns the worker that answered. `tally` counts the answers so far."""
    client = await Client.connect(address)
    await client.close()
    assert client.worker is not None
    if tally is not None:
        tally[client.worker] += 1
    return client.worker


async def timed(address: Any) -> tuple[int, float]:
    """Open one connection. Returns the worker that answered, and after how many seconds."""
    start = time.monotonic()
    return await ask(address), time.monotonic() - start


async def burst(address: Any, count: int, tally: Counter[int] | None = None) -> list[int]:
    """Open `count` connections at once. Returns the worker that answered each."""
    return await asyncio.gather(*(ask(address, tally) for _ in range(count)))


async def keep(address: Any, count: int, clients: list[Client], *, at_once: int = 1) -> list[int]:
    """Open `count` connections, `at_once` at a time, and keep them in `clients`. Returns who answered."""
    for start in range(0, count, at_once):
        size = min(at_once, count - start)
        clients += await asyncio.gather(*(Client.connect(address) for _ in range(size)))
    return [client.worker for client in clients[-count:] if client.worker is not None]


async def until_all_answer(address: Any, workers: Iterable[int]) -> None:
    """Connect until each of these workers has answered. No other worker may answer.

    Under any policy, a worker that a busy machine keeps from running is passed over for a while: no fixed
    number of connections is certain to be enough.
    """
    wanted = set(workers)
    answered: set[int] = set()
    clients: list[Client] = []
    try:
        async with asyncio.timeout(scaled(20)):
            while answered != wanted:
                answered |= set(await keep(address, 10, clients))
                assert answered <= wanted, f"worker {answered - wanted} answered"
    finally:
        await close_all(clients)
