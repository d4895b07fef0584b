"""How workers leave: the block's end, `disconnect`, grace, and the reaction of `main`.

The primary's decisions in all their variety: `tests/primary/test_cluster_life.py`, in memory.
"""

import asyncio
import os
import signal
import socket
import time
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from everycore import (
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Listening,
    Online,
    Ready,
    Settings,
    State,
    Worker,
)
from tests.kit import scaled, wait_gone
from tests.kit.workers import (
    ECHO,
    IDLE,
    Diary,
    EchoClient,
    heard,
    start,
    within,
    worker_script,
)

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: connections, servers, signals. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

#: It handles neither TERM nor its channel: its loop is blocked.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)

async def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await everycore.current_worker().send("blocked")
    while True:
        signal.pause()

everycore.run(main())
"""


class TestTheBlock:
    async def test_left_by_return_every_worker_leaves_and_nothing_is_left(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            workers = [await start(cluster, diary, until=Ready) for _ in range(2)]
            address = diary.all(Listening)[0].address
        assert [await worker.wait() for worker in workers] == [ExitStatus(code=0)] * 2
        assert all(event.voluntary for event in diary.all(Exited))
        assert wait_gone([worker.pid or 0 for worker in workers], 0) == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    async def test_a_cancelled_task_takes_its_cluster_with_it_and_stays_cancelled(self, tmp_path):
        there: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

        async def run_cluster() -> None:
            async with Cluster(Settings(exec=worker_script(tmp_path, STUBBORN)), grace=1000) as cluster:
                worker = cluster.fork()
                await anext(worker.messages())
                there.set_result(worker)
                await asyncio.Event().wait()

        task = asyncio.create_task(run_cluster())
        worker = await within(there)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        assert task.cancelled()
        assert await worker.wait() == ExitStatus(signal=SIGKILL)

    async def test_a_worker_that_hears_nothing_is_killed_when_grace_is_over(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, STUBBORN)), grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await heard(worker)
            asked = time.monotonic()
        assert await worker.wait() == ExitStatus(signal=SIGKILL)
        assert diary.all(Exited)[0].voluntary
        assert 0.1 <= time.monotonic() - asked < scaled(3)


class TestDisconnect:
    @both_loops
    async def test_an_open_connection_is_waited_for(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            address = diary.all(Listening)[0].address
            client = await EchoClient.to(address)
            worker.disconnect()
            with pytest.raises(ConnectionRefusedError):  # it was the last one: no worker accepts
                await asyncio.open_connection(*address)
            for _ in range(3):
                await client.talk()
            assert worker.state is State.DRAINING
            assert diary.all(Disconnected) == []
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    @both_loops
    async def test_when_grace_is_over_connections_are_cut_and_the_worker_leaves_well(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO)), grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            client = await EchoClient.to(diary.all(Listening)[0].address)
            worker.disconnect()
            assert await client.ended()
            assert await within(worker.wait()) == ExitStatus(code=0)
            await client.close()

    @both_loops
    @pytest.mark.parametrize("how", ["connect_accepted_socket(Echo, ", "create_connection(Echo, sock="])
    async def test_a_connection_that_came_over_the_channel_is_waited_for(self, tmp_path, how):
        source = """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)

        async def main():
            worker = everycore.current_worker()
            async for message in worker.messages():
                await asyncio.get_running_loop().HOWmessage.handle)
                del message
                await worker.send("served")

        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source.replace("HOW", how)))) as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            await worker.send(None, theirs)
            assert await heard(worker) == "served"
            client = EchoClient(*await asyncio.open_connection(sock=ours))
            worker.disconnect()
            await client.talk()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_other_workers_go_on(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            first, second = [await start(cluster, diary, until=Ready) for _ in range(2)]
            address = diary.all(Listening)[0].address
            first.disconnect()
            for _ in range(4):
                await (await EchoClient.to(address)).close()
            await within(first.wait())
            await (await EchoClient.to(address)).close()
            assert second.is_ready

    @pytest.mark.race
    async def test_a_worker_told_before_it_is_online_is_stopped_when_it_joins(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            workers = [cluster.fork().disconnect() for _ in range(6)]
            statuses = [await within(worker.wait()) for worker in workers]
        assert statuses == [ExitStatus(code=0)] * 6
        for worker in workers:
            assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]
            assert worker.exited_voluntarily

    @both_loops
    @pytest.mark.race
    async def test_a_worker_told_the_moment_it_is_online(self, tmp_path):
        """Whether its loop reads the channel already, or not yet, or is just being made."""
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            cluster.on(Online, lambda event: event.worker.disconnect())
            workers = [cluster.fork() for _ in range(6)]
            assert [await within(worker.wait()) for worker in workers] == [ExitStatus(code=0)] * 6
        assert all(event.voluntary for event in diary.all(Exited))


class TestByItself:
    async def test_current_worker_disconnect_is_voluntary_before_the_channel_closes(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            assert me.disconnect() is me
            me.disconnect()
            await me.send("on my way")
            await for_ever()
        everycore.run(main())
        """
        voluntary = []
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            cluster.on(Disconnected, lambda event: voluntary.append(event.worker.exited_voluntarily))
            worker = cluster.fork()
            stream = worker.messages()
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert (await within(anext(stream))).message == "on my way"
        assert voluntary == [True]
        assert diary.all(Exited)[0].voluntary

    async def test_current_worker_disconnect_without_a_loop(self, tmp_path):
        source = """
        listener = everycore.listen(("127.0.0.1", 0))
        everycore.current_worker().disconnect()
        signal.pause()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(code=0)
        assert diary.all(Exited)[0].voluntary

    async def test_current_worker_kill_sends_that_signal_and_is_not_voluntary(self, tmp_path):
        source = """
        async def main():
            everycore.current_worker().kill(signal.SIGUSR1)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(signal=signal.SIGUSR1)
        assert not diary.all(Exited)[0].voluntary

    @both_loops
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=lambda number: number.name)
    async def test_a_signal_to_a_worker_lets_it_finish_its_work(self, tmp_path, number):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            address = diary.all(Listening)[0].address
            client = await EchoClient.to(address)
            worker.kill(number)
            while worker.state is State.LISTENING:  # it tells by the link
                await client.talk()
            await client.talk()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert diary.all(Exited)[0].voluntary

    async def test_kill_without_a_signal_is_sigterm(self, tmp_path):
        source = """
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
        os.write(1, b"")
        everycore.listen(("127.0.0.1", 0))
        signal.pause()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            worker.kill()
            assert await within(worker.wait()) == ExitStatus(code=9)
            worker.kill()  # gone: nothing happens


class TestABlockedLoop:
    """A signal asks the loop; a deaf loop ends by it when the grace is over."""

    @both_loops
    @pytest.mark.parametrize(
        ("how", "number"),
        [
            ("while True: pass", SIGTERM),
            ("threading.Event().wait()", SIGTERM),
            ("signal.pause()", SIGINT),
        ],
    )
    async def test_it_ends_by_the_signal(self, tmp_path, how, number):
        source = f"""
        async def main():
            await everycore.current_worker().send("blocked")
            while True:
                {how}

        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.2) as cluster:
            worker = cluster.fork()
            assert await heard(worker) == "blocked"
            worker.kill(number)
            assert await within(worker.wait()) == ExitStatus(signal=number)
            assert not worker.exited_voluntarily

    @both_loops
    async def test_one_that_turns_again_in_time_leaves_well(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("blocked")
            os.read(int(os.environ["GATE"]), 1)
            await for_ever()

        everycore.run(main())
        """
        gate, key = os.pipe()
        try:
            settings = Settings(
                exec=worker_script(tmp_path, source), env={"GATE": str(gate)}, pass_fds=[gate]
            )
            async with Cluster(settings, grace=20.0) as cluster:
                worker = cluster.fork()
                assert await heard(worker) == "blocked"
                worker.kill(SIGTERM)
                os.write(key, b"!")
                assert await within(worker.wait()) == ExitStatus(code=0)
                assert worker.exited_voluntarily
        finally:
            os.close(gate)
            os.close(key)
