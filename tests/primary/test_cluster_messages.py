"""Messages and requests between a primary and its workers, without a process: order, takers, errors.

Both ends run the real channel and mailbox. With processes: `tests/integration/test_messages.py`.
"""

import asyncio
import enum
import math
import signal
from typing import Any

import pytest

from everycore import (
    ChannelClosed,
    ChannelFull,
    Cluster,
    ExitStatus,
    Message,
    RequestFailed,
    RequestTimeout,
    Settings,
)
from everycore.testing import FakeWorker, FakeWorkers, settle
from tests.kit import turn


@pytest.fixture
def mirrors():
    """Workers that send back what they get."""

    async def mirror(worker: FakeWorker) -> None:
        worker.ready()
        async for message in worker.messages():
            await worker.send(message.message)

    with FakeWorkers(mirror) as workers:
        yield workers


@pytest.fixture
def answering():
    """Workers that answer requests: [what, argument]."""

    async def life(worker: FakeWorker) -> None:
        events = {name: asyncio.Event() for name in "abc"}

        async def answer(message, handle):
            what, value = message
            match what:
                case "echo":
                    return value
                case "raise":
                    raise LookupError(value)
                case "bad answer":
                    return {"a": [0, {1, 2}]}
                case "hang":
                    await asyncio.Event().wait()
                case "after":
                    await events[value].wait()
                    return value
                case "set":
                    events[value].set()
                case "ask back":
                    return await worker.request(value, timeout=None)
                case "exit":
                    worker.exit(value)
                case "too big":
                    return b"." * value
            return None

        worker.answer(answer)
        worker.ready()
        await worker.asked_to_leave()

    with FakeWorkers(life) as workers:
        yield workers


class Colour(enum.Enum):
    RED = 1


async def test_events_refuses_messages(mirrors):
    async with Cluster() as cluster:
        with pytest.raises(TypeError, match="use messages"):
            cluster.events(Message)


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(2**63),
            2**64 - 1,
            1.5,
            math.inf,
            "",
            "grüße \0 \U0001f600",
            b"",
            bytes(range(256)),
            [],
            {},
            {"a": [1, {"b": [None]}], 2: "two", True: b"x"},
            [[[[]]]],
        ],
        ids=ascii,
    )
    async def test_what_comes_back_is_what_went(self, mirrors, value):
        async with Cluster() as cluster:
            worker = cluster.fork()
            await worker.send(value)
            back = (await anext(worker.messages())).message
            assert back == value
            assert type(back) is type(value)
            worker.kill(signal.SIGKILL)

    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            ({"a": [0, 1, {2}]}, TypeError, r"message\['a'\]\[2\]: set"),
            (object(), TypeError, "message: object"),
            ([Colour.RED], TypeError, r"message\[0\]: Colour"),
            ({("x",): 1}, TypeError, "key"),
            ([2**64], OverflowError, r"message\[0\]"),
            ([[-(2**63) - 1]], OverflowError, r"message\[0\]\[0\]"),
            ({"x": "\udc80"}, ValueError, r"message\['x'\]"),
            (3 + 4j, TypeError, "complex"),
        ],
        ids=["set", "object", "enum", "key", "large", "small", "surrogate", "complex"],
    )
    async def test_what_can_not_be_sent_is_refused_at_the_call_naming_the_place(
        self, mirrors, value, error, text
    ):
        async with Cluster() as cluster:
            worker = cluster.fork()
            for send in (
                worker.send,
                worker.send_nowait,
                lambda value: worker.request(value, timeout=None),
            ):
                with pytest.raises(error, match=text):
                    send(value)  # not awaited: it is raised by the call
            with pytest.raises(error, match=text):
                await cluster.broadcast(value)
            await worker.send("after")
            assert (await anext(worker.messages())).message == "after"
            worker.kill(signal.SIGKILL)

    async def test_a_list_that_contains_itself(self, mirrors):
        endless: list[object] = []
        endless.append(endless)
        async with Cluster() as cluster:
            worker = cluster.fork()
            with pytest.raises(ValueError, match=r"message\[0\]"):
                await worker.send(endless)
            worker.kill(signal.SIGKILL)

    async def test_pickle_carries_what_the_other_side_knows(self, mirrors):
        async with Cluster(Settings(serialization="pickle")) as cluster:
            worker = cluster.fork()
            value = ({1, 2}, 3 + 4j, frozenset("a"), 2**70)
            await worker.send(value)
            assert (await anext(worker.messages())).message == value
            worker.kill(signal.SIGKILL)

    async def test_the_largest_message_and_one_byte_more(self, mirrors):
        async with Cluster(max_message=100_000) as cluster:
            worker = cluster.fork()
            largest = b"." * (100_000 - 5)  # msgpack's own header of such bytes
            await worker.send(largest)
            assert (await anext(worker.messages())).message == largest
            with pytest.raises(ValueError, match="100001 bytes; at most 100000"):
                await worker.send(largest + b".")
            worker.kill(signal.SIGKILL)


class TestOrder:
    async def test_messages_sent_before_the_worker_is_online_wait_for_it(self):
        with FakeWorkers(life=None) as workers:
            async with Cluster() as cluster:
                worker = cluster.fork()
                for number in range(500):
                    worker.send_nowait(number)
                await settle()
                workers[worker].online()
                messages = workers[worker].messages()
                assert [(await anext(messages)).message for _ in range(500)] == list(range(500))
                workers[worker].exit()

    async def test_both_ways_at_once_each_in_its_order(self):
        with FakeWorkers(life=None) as workers:
            async with Cluster() as cluster:
                worker = cluster.fork()
                fake = workers[worker]

                async def send(end: Any) -> None:
                    for number in range(3000):
                        await end.send([number, "x" * (number % 97)])

                async def receive(end: Any) -> list[int]:
                    messages = end.messages()
                    return [(await anext(messages)).message[0] for _ in range(3000)]

                _, _, up, down = await asyncio.gather(
                    send(worker), send(fake), receive(worker), receive(fake)
                )
                assert up == down == list(range(3000))
                fake.exit()


class TestBackPressure:
    @pytest.mark.parametrize("to_primary", [False, True], ids=["to the worker", "to the primary"])
    async def test_towards_one_that_does_not_take_them(self, workers, to_primary):
        """`send_nowait` refuses, `send` waits; when the other side takes them, all arrive, in order."""
        async with Cluster() as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            fake.online()
            sender: Any = fake if to_primary else worker
            receiver: Any = worker if to_primary else fake
            sent = 0
            with pytest.raises(ChannelFull):
                while True:
                    sender.send_nowait([sent, "." * 1000])
                    sent += 1
                    if not sent % 100:
                        await settle()
            waiting = asyncio.ensure_future(sender.send([sent, "waited"]))
            await settle()
            assert not waiting.done()
            assert sent > 1024
            messages = receiver.messages()
            assert [(await anext(messages)).message[0] for _ in range(sent + 1)] == list(range(sent + 1))
            await waiting
            fake.exit()

    async def test_one_full_of_messages_still_hears_that_it_is_to_leave(self, workers):
        async with Cluster() as cluster:
            worker = cluster.fork()
            fake = workers[worker]
            fake.online()
            await settle()
            with pytest.raises(ChannelFull):
                while True:
                    worker.send_nowait("." * 10_000)
            worker.disconnect()
            await fake.asked_to_leave()
            fake.exit()

    async def test_it_holds_up_its_own_messages_only(self, workers):
        async with Cluster() as cluster:
            stopped, other = cluster.fork(), cluster.fork()
            workers[other].online()
            with pytest.raises(ChannelFull):
                while True:
                    stopped.send_nowait(b"." * 10_000)
            waiting = asyncio.ensure_future(stopped.send("more"))
            await other.send("hello")
            assert (await anext(workers[other].messages())).message == "hello"
            await settle()
            assert not waiting.done()
            workers[stopped].die()
            with pytest.raises(ChannelClosed, match="worker 1"):
                await waiting
            workers[other].exit()


class TestRequests:
    async def test_answers_both_ways_and_within_each_other(self, answering):
        async def double(message, handle):
            return message * 2

        async with Cluster() as cluster:
            worker = cluster.fork()
            worker.answer(double)
            assert await worker.request(["echo", {"a": [1]}], timeout=None) == {"a": [1]}
            assert await worker.request(["ask back", 21], timeout=None) == 42

    async def test_many_at_once_answered_out_of_order(self, answering):
        async with Cluster() as cluster:
            worker = cluster.fork()
            waiting = [asyncio.ensure_future(worker.request(["after", name], timeout=None)) for name in "abc"]
            for name in "cba":
                await worker.request(["set", name], timeout=None)
            assert await asyncio.gather(*waiting) == ["a", "b", "c"]
            many = [worker.request(["echo", number], timeout=None) for number in range(3000)]
            assert await asyncio.gather(*many) == list(range(3000))

    async def test_what_the_handler_raises_is_its_callers(self, answering):
        async with Cluster(max_message=100_000) as cluster:
            worker = cluster.fork()
            with pytest.raises(RequestFailed) as caught:
                await worker.request(["raise", "grüße"], timeout=None)
            assert (caught.value.type_name, caught.value.text) == ("LookupError", "grüße")
            with pytest.raises(RequestFailed, match=r"TypeError: message\['a'\]\[1\]"):
                await worker.request(["bad answer", None], timeout=None)
            with pytest.raises(RequestFailed, match=r"ValueError: a message of .* bytes"):
                await worker.request(["too big", 200_000], timeout=None)
            with pytest.raises(RequestFailed, match="ValueError"):
                await worker.request("not two", timeout=None)
            assert await worker.request(["echo", 1], timeout=None) == 1

    async def test_nobody_answers(self, mirrors):
        async with Cluster() as cluster:
            worker = cluster.fork()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await worker.request("anyone?", timeout=None)
            worker.kill(signal.SIGKILL)

    async def test_one_handler_a_side_and_an_async_one(self, answering):
        async def handler(message, handle):
            return "mine"

        async with Cluster() as cluster:
            worker = cluster.fork()
            with pytest.raises(TypeError, match="async def"):
                worker.answer(lambda message, handle: None)  # type: ignore[arg-type, return-value]
            subscription = worker.answer(handler)
            with pytest.raises(RuntimeError, match="answers already"):
                worker.answer(handler)
            assert await worker.request(["ask back", 1], timeout=None) == "mine"
            subscription.cancel()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await worker.request(["ask back", 1], timeout=None)

    async def test_a_timeout_is_the_callers_and_a_late_answer_is_dropped(self, answering):
        async with Cluster() as cluster:
            worker = cluster.fork()
            with pytest.raises(RequestTimeout) as caught:
                await worker.request(["after", "a"], timeout=20)
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.timeout, caught.value.errno) == (20, None)
            assert asyncio.get_running_loop().time() == pytest.approx(20)
            await worker.request(["set", "a"], timeout=None)
            assert await worker.request(["echo", 1], timeout=10) == 1

    async def test_a_cancelled_caller_does_no_harm(self, answering):
        async with Cluster() as cluster:
            worker = cluster.fork()
            asking = asyncio.ensure_future(worker.request(["after", "a"], timeout=None))
            await turn(3)
            asking.cancel()
            await worker.request(["set", "a"], timeout=None)
            assert await worker.request(["echo", 1], timeout=None) == 1

    async def test_the_peers_death_is_channel_closed_with_its_status(self, answering):
        async with Cluster() as cluster:
            worker = cluster.fork()
            hanging = asyncio.ensure_future(worker.request(["hang", None], timeout=None))
            with pytest.raises(ChannelClosed, match="exit status 9") as caught:
                await worker.request(["exit", 9], timeout=None)
            assert caught.value.status == ExitStatus(code=9)
            with pytest.raises(ChannelClosed):
                await hanging
            for call in (worker.send, worker.send_nowait, lambda what: worker.request(what, timeout=None)):
                with pytest.raises(ChannelClosed, match="exit status 9") as caught:
                    call("too late")  # not awaited: it is raised by the call
                assert caught.value.status == ExitStatus(code=9)
                assert isinstance(caught.value, ConnectionError)

    @pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "1", True])
    async def test_a_malformed_timeout(self, answering, timeout):
        async with Cluster() as cluster:
            with pytest.raises(ValueError, match="timeout"):
                await cluster.fork().request("x", timeout=timeout)
