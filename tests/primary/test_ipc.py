"""Requests of a worker on its channel, and the turns of others meanwhile."""

import asyncio
import socket

from everycore import Cluster, ExitStatus, Settings
from everycore.core import wire
from everycore.primary.ipc import ANSWERS_A_TURN
from everycore.testing import settle
from tests.kit.fake_processes import FakeProcesses


async def test_others_have_their_turn_between_requests_to_listen():
    """Each request examines all listeners that the worker holds."""
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py"), grace=1.0) as cluster:
            cluster.fork()
            (worker,) = processes.all
            worker.join()
            await settle()
            for number in range(5 * ANSWERS_A_TURN):
                request = wire.Listen(
                    request=number,
                    address=["127.0.0.1", 0],
                    family=socket.AF_INET,
                    kind=socket.SOCK_STREAM,
                    backlog=1,
                )
                worker.say(request)
            held: list[int] = []
            while not held or held[-1] < 5 * ANSWERS_A_TURN:
                await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop
                held.append(len(list(cluster._runtime.switchboard._book)))
            steps = [after - before for before, after in zip([0, *held], held, strict=False)]
            assert max(steps) <= ANSWERS_A_TURN
            socket.recv_fds(worker.process.channel, 1, 0)
            worker.end(ExitStatus(code=0))
