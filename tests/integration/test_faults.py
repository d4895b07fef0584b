"""Workers that block, stop and die: connections that were not picked up are not lost."""

import asyncio
import os
import signal
import time
from collections import Counter

import pytest

from everycore import Exited
from tests.kit import scaled, turn
from tests.kit.crowds import (
    COUNTED,
    agents,
    ask,
    both_loops,
    burst,
    each_once,
    serve_by,
    servers,
    timed,
    until_all_answer,
)
from tests.kit.traffic import Client, closing
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]


class TestAWorkerThatBlocks:
    @each_once
    async def test_the_others_answer_within_a_second_all_that_come_meanwhile(self, tmp_path, policy, loop):
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (_, one, two):
            fifo = tmp_path / "gate"
            os.mkfifo(fifo)
            source = """
async def block_or_greet(reader, writer):
    writer.write(b"%d\\n" % ID)
    if await reader.readline() == b"block\\n":
        writer.write(b"blocking\\n")
        open(fifo).close()
    writer.write(b"done\\n")
    writer.close()
"""
            address = await serve_by([one, two], "block_or_greet", f"fifo = {str(fifo)!r}\n{source}")

            async def request():
                start = time.monotonic()
                client = await Client.connect(address)
                assert await client.echo("go on") == "done"
                await client.close()
                return client.worker, time.monotonic() - start

            sleeper = await Client.connect(address)
            assert await sleeper.echo("block") == "blocking"
            one_by_one = [await request() for _ in range(10)]
            at_once = await asyncio.gather(*(request() for _ in range(40)))
            assert {worker for worker, _ in one_by_one + at_once} == {one.id, two.id} - {sleeper.worker}
            assert max(seconds for _, seconds in one_by_one + at_once) < scaled(1.0)
            fifo.write_text("")
            assert await within(sleeper.reader.read()) == b"done\n"
            await sleeper.close()
            # It takes part again.
            answered: set[int] = set()

            async def until_both_answer():
                while len(answered) < 2:
                    answered.update([(await request())[0] for _ in range(2)])

            await within(until_both_answer())

    @each_once
    async def test_every_worker_blocked_is_a_pause_and_no_loss(self, tmp_path, policy, loop):
        async with servers(tmp_path, 2, policy=policy, loop=loop) as (_, (one, two), address):
            tally: Counter[int] = Counter()
            async with one.standing_still() as go_on:
                async with two.standing_still():
                    asking = [asyncio.create_task(ask(address, tally)) for _ in range(60)]
                    opened = await Client.open(address)  # the kernel also has the earlier ones
                    assert not tally
                    go_on()
                    await within(asyncio.gather(*asking))
                    assert tally == {one.id: 60}
                    assert await opened.greeting() == one.id
                    await opened.close()

    @each_once
    async def test_a_worker_that_comes_back_from_a_block_is_given_its_share(self, tmp_path, policy, loop):
        async with servers(tmp_path, 2, policy=policy, loop=loop) as (_, (one, two), address):
            async with one.standing_still():
                assert set(await burst(address, 20)) == {two.id}
            await one.get("0")  # its loop turns again
            await until_all_answer(address, {one.id, two.id})


class TestAWorkerThatIsKilled:
    @each_once
    async def test_what_it_had_not_picked_up_is_answered_by_another(self, tmp_path, policy, loop):
        """Nothing is recalled after a time here: the worker's death frees what lies on its belt."""
        async with servers(tmp_path, 2, policy=policy, loop=loop, recall_after=600) as (
            cluster,
            (one, two),
            address,
        ):
            diary = Diary(cluster)
            tally: Counter[int] = Counter()
            await burst(address, 64, tally)  # credit has grown
            tally.clear()
            async with one.standing_still(), two.standing_still() as go_on:
                asking = [asyncio.create_task(ask(address, tally)) for _ in range(100)]
                opened = await Client.open(address)
                one.worker.kill(signal.SIGKILL)
                await diary.until(Exited, one.worker)
                assert not tally
                go_on()
                await within(asyncio.gather(*asking))
                assert tally == {two.id: 100}
                assert await opened.greeting() == two.id
                await opened.close()

    @each_once
    async def test_its_death_is_enough_for_those_on_its_belt(self, tmp_path, policy, loop):
        """The other is idle, and gets nothing but the connections themselves."""
        async with servers(tmp_path, 2, policy=policy, loop=loop, recall_after=600) as (
            _,
            (one, two),
            address,
        ):
            tally: Counter[int] = Counter()
            one.worker.kill(signal.SIGSTOP)
            asking = [asyncio.create_task(ask(address, tally)) for _ in range(30)]
            opened = await Client.open(address)
            await opened.greeting() if policy == "shared" else await turn(10)
            one.worker.kill(signal.SIGKILL)
            await within(asyncio.gather(*asking))
            assert tally == {two.id: 30}
            assert await opened.greeting() == two.id if opened.worker is None else opened.worker == two.id
            await opened.close()

    @each_once
    async def test_the_last_one_and_its_replacement(self, tmp_path, policy, loop):
        async with servers(tmp_path, 1, policy=policy, loop=loop, when_no_worker="hold") as (
            cluster,
            (one,),
            address,
        ):
            tally: Counter[int] = Counter()
            async with one.standing_still():
                asking = [asyncio.create_task(ask(address, tally)) for _ in range(50)]
                opened = await Client.open(address)
                one.worker.kill(signal.SIGKILL)
                await within(one.worker.wait())
                assert not tally
            replacement = type(one)(cluster.fork())
            await within(replacement.serve(address[1]))
            await within(asyncio.gather(*asking))
            assert tally == {replacement.id: 50}
            assert await opened.greeting() == replacement.id
            await opened.close()

    @each_once
    async def test_one_after_the_other_under_load(self, tmp_path, policy, loop):
        """Only clients picked up by the killed worker may see an end; a refused or hanging one fails here."""
        async with servers(tmp_path, 2, policy=policy, loop=loop) as (cluster, workers, address):
            over = False
            answers, cut = 0, 0
            progress = asyncio.Event()

            async def load():
                nonlocal answers, cut
                while not over:
                    client = await Client.open(address)
                    try:
                        line = await within(client.reader.readline())
                    except ConnectionError:
                        line = b""
                    await client.close()
                    answers += bool(line)
                    cut += not line
                    progress.set()

            async def more(count):
                wanted = answers + count
                while answers < wanted:
                    progress.clear()
                    await progress.wait()

            loads = [asyncio.create_task(load()) for _ in range(8)]
            alive = list(workers)
            for _ in range(2):
                await within(more(30))
                victim = alive.pop(0)
                victim.worker.kill(signal.SIGKILL)
                await within(victim.worker.wait())
                await within(more(30))
                alive.append(type(victim)(cluster.fork()))
                await within(alive[-1].serve(address[1]))
            over = True
            await within(asyncio.gather(*loads))
            assert cut <= 2 * 8  # of 8 at a time, those that the victim had picked up


class TestAWorkerThatIsStopped:
    @each_once
    async def test_under_load_others_go_on_and_nothing_is_lost(self, tmp_path, policy, loop):
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (_, one, two):
            address = await serve_by([one, two], "counted", COUNTED)
            tally: Counter[int] = Counter()
            many = asyncio.Event()
            over = False

            async def load():
                while not over:
                    await ask(address, tally)
                    if min(tally[one.id], tally[two.id]) >= 40:
                        many.set()

            loads = [asyncio.create_task(load()) for _ in range(8)]
            await within(many.wait())
            one.worker.kill(signal.SIGSTOP)
            fresh = await within(burst(address, 40))
            over = True
            one.worker.kill(signal.SIGCONT)
            await within(asyncio.gather(*loads))
            assert set(fresh) == {two.id}
            tally += Counter(fresh)
            assert [await worker.get("served") for worker in (one, two)] == [tally[one.id], tally[two.id]]
            await until_all_answer(address, {one.id, two.id})

    @each_once
    async def test_an_idle_one_costs_little(self, tmp_path, policy, loop):
        async with servers(tmp_path, 3, policy=policy, loop=loop) as (_, (one, two, three), address):
            one.worker.kill(signal.SIGSTOP)
            answers = [await timed(address) for _ in range(12)]
            assert {worker for worker, _ in answers} <= {two.id, three.id}
            assert max(seconds for _, seconds in answers) < scaled(1.0)
            one.worker.kill(signal.SIGCONT)
            await until_all_answer(address, {one.id, two.id, three.id})

    @each_once
    async def test_stopped_again_and_again(self, tmp_path, policy, loop):
        async with servers(tmp_path, 2, policy=policy, loop=loop) as (_, (one, two), address):
            for at in range(12):
                (one, two)[at % 2].worker.kill(signal.SIGSTOP)
                answers = await within(burst(address, 10))
                assert set(answers) == {(one, two)[1 - at % 2].id}
                (one, two)[at % 2].worker.kill(signal.SIGCONT)
                await (one, two)[at % 2].get("0")


class TestAWorkerThatSwallowsAWakeUp:
    """`shared`: the kernel has woken one worker for a single connection, and that worker does not come."""

    @both_loops
    @pytest.mark.parametrize(
        "instead",
        [
            pytest.param("os._exit(3)", id="exits"),
            pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="killed"),
            pytest.param("os.kill(os.getpid(), signal.SIGSTOP)", id="stopped"),
            pytest.param("open(fifo).close()", id="blocked"),
        ],
    )
    async def test_another_one_answers(self, tmp_path, instead, loop):
        """The worker that is woken first does something else between its wake-up and its `accept`."""
        fifo, token = tmp_path / "gate", tmp_path / "token"
        os.mkfifo(fifo)
        source = f"""
from everycore.worker.connections.shared_reader import SharedReader
accept = SharedReader._on_readable

def fail_first(self):
    if armed:
        with contextlib.suppress(FileExistsError):
            os.symlink(str(ID), token)  # one step, and only one can
            {instead}
    accept(self)

SharedReader._on_readable = fail_first
armed = False
token, fifo = {str(token)!r}, {str(fifo)!r}
"""
        # uvloop's own accept, in C, leaves a program nothing to do in between.
        env = {"EVERYCORE_WITHOUT": "uvloop.accept"}
        async with agents(tmp_path, 2, policy="shared", loop=loop, env=env) as (_, *workers):
            address = await serve_by(workers, "greet", source)
            await burst(address, 10)
            for worker in workers:
                await worker.do("armed = True")
            answered, seconds = await timed(address)
            swallower = int(os.readlink(token))
            assert answered != swallower
            assert seconds < scaled(1.0)
            assert set(await burst(address, 10)) == {answered}
            woken = next(worker for worker in workers if worker.id == swallower)
            if "_exit" in instead or "KILL" in instead:
                await within(woken.worker.wait())
                return
            if "STOP" in instead:
                woken.worker.kill(signal.SIGCONT)
            else:
                fifo.write_text("")
            await woken.get("0")  # it goes on, finds nobody there, and takes part again
            await until_all_answer(address, {worker.id for worker in workers})

    @both_loops
    async def test_all_but_one_are_stopped(self, tmp_path, loop):
        """Each may swallow one wake-up and one baton; the last one still serves."""
        async with servers(tmp_path, 5, policy="shared", loop=loop) as (_, workers, address):
            async with closing([]) as clients:
                for _ in range(5):
                    clients.append(await Client.connect(address))
                awake = next(worker for worker in workers if worker.id == clients[-1].worker)
                for worker in workers:
                    if worker is not awake:
                        worker.worker.kill(signal.SIGSTOP)
                answers = [await timed(address) for _ in range(6)]
                assert {worker for worker, _ in answers} == {awake.id}
                assert max(seconds for _, seconds in answers) < scaled(2.0)
                for worker in workers:
                    worker.worker.kill(signal.SIGCONT)
