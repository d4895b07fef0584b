"""Attackers among the workers of one user: each loses its channel, or gains nothing.

They attack at once, on the listener of two honest workers. Meanwhile 500 requests are answered, and none is
lost. Afterwards the primary has the descriptors and the memory that it had. See `tests.kit.hostile`.
"""

import asyncio
from signal import SIGKILL

import pytest

from everycore import Cluster, Exited, ExitStatus, Listening, Ready, Settings
from tests.kit import open_fds
from tests.kit.hostile import ATTACKER, ATTACKS, FORGERIES
from tests.kit.others import GID, UID, folder_for_others, python_for_others
from tests.kit.ports import free_port
from tests.kit.processes import resident
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

REQUESTS = 500
AT_ONCE = 10
SERVER = """
async def answer(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()
everycore.run(main())
"""
#: Its loop has noticed the end of its channel, or its attack has failed by that; or it was killed.
ENDS = {
    "its channel": {ExitStatus(code=75), ExitStatus(code=1), ExitStatus(signal=SIGKILL)},
    "nothing": {ExitStatus(code=0)},
}


async def ask(port: int, times: int) -> int:
    """How many of `times` requests were answered."""
    answered = 0
    for number in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"%d\n" % number)
        answered += await reader.readline() == b"%d\n" % number
        writer.close()
        await writer.wait_closed()
    return answered


@pytest.fixture
def place():
    with folder_for_others() as folder:
        yield folder


@pytest.mark.parametrize("policy", ["round_robin", pytest.param("shared", marks=pytest.mark.ci_only)])
async def test_it_costs_no_other_worker_anything(tmp_path, policy):
    await attacked(tmp_path, policy)


@pytest.mark.ci_only
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
async def test_nor_does_one_of_another_user(place, policy):
    """All of them: those that behave too, for workers of two users share no listener."""
    python, env = python_for_others()
    port = free_port()
    rest = {"uid": UID, "gid": GID, "cwd": place, "env": env, "addresses": [("127.0.0.1", port)]}
    await attacked(place, policy, lambda script: [python, str(script)], port, **rest)


async def attacked(folder, policy, command=str, port=0, **rest):
    attacker = folder / "attacker.py"
    attacks = ATTACKS | (FORGERIES if policy == "round_robin" else {})
    attacker.write_text(ATTACKER)
    async with Cluster(
        Settings(exec=command(worker_script(folder, SERVER)), **rest), policy=policy
    ) as cluster:
        diary = Diary(cluster)
        first = cluster.fork({"PORT": str(port)})
        await diary.until(Ready, first)
        port = diary.all(Listening, first)[0].address[1]
        good = [first, cluster.fork({"PORT": str(port)})]
        await diary.until(Ready, good[1])
        descriptors, memory = open_fds(), resident()
        cluster.setup_primary(exec=command(attacker))
        attackers = {
            name: cluster.fork({"PORT": str(port), "ATTACK": attack}) for name, (attack, _) in attacks.items()
        }
        for attacker in attackers.values():
            await within(anext(attacker.messages()), 10)
        for attacker in attackers.values():
            await attacker.send("go")
        clients = [asyncio.create_task(ask(port, REQUESTS // AT_ONCE)) for _ in range(AT_ONCE)]
        ends = {name: await within(attacker.wait(), 30) for name, attacker in attackers.items()}
        assert sum([await within(client, 30) for client in clients]) == REQUESTS
        assert {name: end for name, end in ends.items() if end not in ENDS[attacks[name][1]]} == {}
        assert all(worker.is_ready for worker in good)
        for name, attacker in attackers.items():
            assert not diary.all(Exited, attacker)[0].voluntary, name
        assert open_fds() == descriptors
        assert resident() - memory < 16 << 20
