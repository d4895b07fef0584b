"""Which taker gets a worker's message, without a process."""

from typing import Any

import pytest

from everycore import (
    Cluster,
    ExitStatus,
    Message,
)
from everycore.testing import FakeWorkers, settle


class TestTakers:
    @pytest.fixture
    def workers(self):
        with FakeWorkers() as workers:
            yield workers

    async def test_streams_and_callbacks_of_worker_and_cluster_all_get_each(self, workers):
        seen: list[tuple[Any, ...]] = []
        async with Cluster() as cluster:
            cluster.on(Message, lambda message: seen.append(("cluster", message.worker.id, message.message)))
            worker = cluster.fork()
            worker.on(Message, lambda message: seen.append(("worker", 1, message.message)))
            worker.once(Message, lambda message: seen.append(("once", 1, message.message)))
            messages = worker.messages()
            for number in range(2):
                await workers[worker].send(number)
            assert [(await anext(messages)).message for _ in range(2)] == [0, 1]
        assert sorted(seen) == sorted(
            [("cluster", 1, 0), ("cluster", 1, 1), ("worker", 1, 0), ("worker", 1, 1), ("once", 1, 0)]
        )

    async def test_cluster_once_is_once_for_all_workers_those_to_come_too(self, workers):
        seen: list[object] = []
        async with Cluster() as cluster:
            cluster.once(Message, lambda message: seen.append(message.worker))
            forked = [cluster.fork() for _ in range(2)]
            for worker in forked:
                await workers[worker].send("x")
                await settle()
            await workers[cluster.fork()].send("x")
            await settle()
        assert seen == [forked[0]]

    async def test_a_cancelled_subscription_hears_no_more(self, workers):
        seen: list[object] = []
        async with Cluster() as cluster:
            worker = cluster.fork()
            with worker.on(Message, lambda message: seen.append(message.message)):
                await workers[worker].send(1)
                await settle()
            await workers[worker].send(2)
            await settle()
        assert seen == [1]

    async def test_messages_wait_for_the_first_taker(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            for number in range(3):
                await workers[worker].send(number)
            await settle()
            first = worker.messages()
            assert (await anext(first)).message == 0
            await first.aclose()
            second = worker.messages()
            assert [(await anext(second)).message for _ in range(2)] == [1, 2]

    async def test_a_callback_that_raises_is_logged_by_name_and_does_no_harm(self, workers, caplog):
        seen: list[object] = []

        def fails(message):
            raise LookupError("on purpose")

        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.on(Message, fails)
            worker.on(Message, lambda message: seen.append(message.message))
            await workers[worker].send("x")
            await settle()
        assert seen == ["x"]
        assert "fails" in caplog.text
        assert "on purpose" in caplog.text

    async def test_a_coroutine_function_is_refused_as_a_taker(self, workers):
        async def wrong(message):
            pass

        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="coroutine function"):
                cluster.on(Message, wrong)  # there is no worker yet
            worker = cluster.fork()
            for on in (worker.on, worker.once, cluster.on, cluster.once):
                with pytest.raises(TypeError, match="coroutine function"):
                    on(Message, wrong)

    async def test_events_carries_no_messages(self):
        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="messages"):
                cluster.events(Message)

    async def test_the_streams_end_with_the_worker(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            await workers[worker].send("one")
            await anext(messages)
            worker.disconnect()
            assert [message async for message in messages] == []
            assert await worker.wait() == ExitStatus(code=0)

    async def test_broadcast_reaches_every_connected_worker_and_says_how_many(self, workers):
        async with Cluster() as cluster:
            assert await cluster.broadcast("nobody") == 0
            forked = [cluster.fork() for _ in range(3)]
            streams = [workers[worker].messages() for worker in forked]
            assert await cluster.broadcast("all") == 3
            assert [(await anext(stream)).message for stream in streams] == ["all"] * 3
            workers[forked[1]].die()
            await forked[1].wait()
            assert await cluster.broadcast("rest") == 2
