"""Messages and requests between a primary and real workers: order, limits, back-pressure, takers, errors."""

import asyncio
import contextlib
import enum
import math
from signal import SIGKILL, SIGSTOP, SIGUSR1

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
from tests.integration.workers import Diary, eventually, within, worker_script
from tests.kit import scaled, turn

pytestmark = [pytest.mark.slow, pytest.mark.limit(30), pytest.mark.usefixtures("loop_kind")]

#: Sends back what it gets; "count N" counts up to N first.
MIRROR = """
async def main():
    me = everycore.current_worker()
    async for message in me.messages():
        await me.send(message.message)
everycore.run(main())
"""

#: Answers requests: [what, argument].
ANSWERS = """
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
            await for_ever()
        case "after":
            await events[value].wait()
            return value
        case "set":
            events[value].set()
        case "ask back":
            return await me.request(value, timeout=None)
        case "exit":
            os._exit(value)
        case "too big":
            return b"." * value

async def main():
    global events, me
    events = {name: asyncio.Event() for name in "abc"}
    me = everycore.current_worker()
    me.answer(answer)
    await for_ever()
everycore.run(main())
"""


class Colour(enum.Enum):
    RED = 1


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
    async def test_what_comes_back_is_what_went(self, tmp_path, value):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            await worker.send(value)
            back = (await within(anext(worker.messages()))).message
            assert back == value
            assert type(back) is type(value)

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
        self, tmp_path, value, error, text
    ):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
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
            assert (await within(anext(worker.messages()))).message == "after"

    async def test_a_list_that_contains_itself(self, tmp_path):
        loop: list[object] = []
        loop.append(loop)
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            with pytest.raises(ValueError, match=r"message\[0\]"):
                await cluster.fork().send(loop)

    async def test_pickle_carries_what_the_other_side_knows(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, MIRROR), serialization="pickle")
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            value = ({1, 2}, 3 + 4j, frozenset("a"), 2**70)
            await worker.send(value)
            assert (await within(anext(worker.messages()))).message == value

    async def test_the_largest_message_and_one_byte_more(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, MIRROR))
        async with Cluster(settings, max_message=100_000) as cluster:
            worker = cluster.fork()
            largest = b"." * (100_000 - 5)  # msgpack's own header of such bytes
            await worker.send(largest)
            assert (await within(anext(worker.messages()))).message == largest
            with pytest.raises(ValueError, match="100001 bytes; at most 100000"):
                await worker.send(largest + b".")

    async def test_sixteen_mebibytes_both_ways(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            big = b"\xa5" * (16 * 1024 * 1024 - 5)
            await within(worker.send(big))
            assert (await within(anext(messages))).message == big


class TestOrder:
    async def test_messages_sent_before_the_worker_is_online_wait_for_it(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            for number in range(500):
                worker.send_nowait(number)
            messages = worker.messages()
            assert [(await within(anext(messages))).message for _ in range(500)] == list(range(500))

    async def test_both_ways_at_once_each_in_its_order(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()

            async def send():
                for number in range(3000):
                    await me.send([number, "x" * (number % 97)])

            async def receive():
                expected = 0
                async for message in me.messages():
                    assert message.message == expected, (message.message, expected)
                    expected += 1
                    if expected == 3000:
                        break

            await asyncio.gather(send(), receive())
            await me.send("done")
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()

            async def send() -> None:
                for number in range(3000):
                    await worker.send(number)

            async def receive() -> list[object]:
                return [(await anext(messages)).message for _ in range(3001)]

            _, got = await within(asyncio.gather(send(), receive()))
            assert [item[0] for item in got[:-1]] == list(range(3000))
            assert got[-1] == "done"
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_what_was_sent_before_main_ended_arrives(self, tmp_path):
        """`run` flushes; even when main leaves by SystemExit, and sent more than the socket holds."""
        source = """
        async def main():
            me = everycore.current_worker()
            for number in range(8):
                me.send(b"." * 200_000).close()  # sent at the call, not waited for
            me.send("last").close()
            sys.exit(3)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            assert await within(worker.wait()) == ExitStatus(code=3)
            got = [message.message async for message in messages]
            assert [len(item) for item in got[:8]] == [200_000] * 8
            assert got[8:] == ["last"]


class TestBackPressure:
    async def test_towards_a_worker_that_does_not_take_them(self, tmp_path):
        """`send_nowait` refuses, `send` waits; when the worker goes on all arrive, in order."""
        source = """
        async def main():
            me = everycore.current_worker()
            go = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
            await me.send("here")
            await go.wait()
            seen = []
            async for message in me.messages():
                if message.message is None:
                    break
                seen.append(message.message[0])
            await me.send(seen == list(range(len(seen))) and len(seen))
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            await within(anext(messages))
            sent = 0
            while True:
                with pytest.raises(ChannelFull, match="worker 1"):
                    while True:
                        worker.send_nowait([sent, "." * 1000])
                        sent += 1
                        await turn()
                waiting = asyncio.create_task(worker.send([sent, "waited"]))
                sent += 1
                # Full may be for a moment: the worker still reads as much as the window lets it.
                if not (await asyncio.wait([waiting], timeout=0.1))[0]:
                    break
                assert sent < 10_000
            worker.kill(SIGUSR1)
            await within(waiting)
            await worker.send(None)
            assert (await within(anext(messages))).message == sent

    async def test_towards_a_primary_that_does_not_take_them(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            sent = 0
            try:
                while True:
                    me.send_nowait([sent, "." * 1000])
                    sent += 1
                    await asyncio.sleep(0)
            except everycore.ChannelFull:
                open("full", "w").close()
            await me.send([sent, "waited"])
            await me.send(["sent", sent + 1])
        everycore.run(main())
        """
        settings = Settings(exec=worker_script(tmp_path, source), cwd=tmp_path)
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            await eventually((tmp_path / "full").exists, turn)
            # The worker can still be told and heard: only its messages wait.
            got: list[int] = []
            async for message in worker.messages():
                if message.message[0] == "sent":
                    assert message.message[1] == len(got)
                    break
                got.append(message.message[0])
            assert got == list(range(len(got)))
            assert len(got) > 1024
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_a_worker_full_of_messages_still_hears_disconnect(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("here")
            await for_ever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            await within(anext(worker.messages()))
            with contextlib.suppress(ChannelFull):
                while True:
                    worker.send_nowait("." * 10_000)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_a_stopped_worker_holds_up_its_own_messages_only(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            stopped, other = cluster.fork(), cluster.fork()
            stopped.kill(SIGSTOP)
            with pytest.raises(ChannelFull):
                while True:
                    stopped.send_nowait(b"." * 10_000)
            waiting = asyncio.create_task(stopped.send("more"))
            await other.send("hello")
            assert (await within(anext(other.messages()))).message == "hello"
            assert not waiting.done()
            stopped.kill(SIGKILL)
            with pytest.raises(ChannelClosed, match="worker 1"):
                await within(waiting)


class TestRequests:
    async def test_answers_both_ways_and_within_each_other(self, tmp_path):
        async def double(message, handle):
            return message * 2

        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            worker.answer(double)
            assert await within(worker.request(["echo", {"a": [1]}], timeout=None)) == {"a": [1]}
            assert await within(worker.request(["ask back", 21], timeout=None)) == 42

    async def test_many_at_once_answered_out_of_order(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            waiting = [asyncio.create_task(worker.request(["after", name], timeout=None)) for name in "abc"]
            for name in "cba":
                await within(worker.request(["set", name], timeout=None))
            assert await within(asyncio.gather(*waiting)) == ["a", "b", "c"]
            many = [worker.request(["echo", number], timeout=None) for number in range(3000)]
            assert await within(asyncio.gather(*many)) == list(range(3000))

    async def test_what_the_handler_raises_is_its_callers(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            with pytest.raises(RequestFailed) as caught:
                await within(worker.request(["raise", "grüße"], timeout=None))
            assert (caught.value.type_name, caught.value.text) == ("LookupError", "grüße")
            with pytest.raises(RequestFailed, match=r"TypeError: message\['a'\]\[1\]"):
                await within(worker.request(["bad answer", None], timeout=None))
            with pytest.raises(RequestFailed, match=r"ValueError: a message of .* bytes"):
                await within(worker.request(["too big", 17 * 1024 * 1024], timeout=None))
            with pytest.raises(RequestFailed, match="ValueError"):
                await within(worker.request("not two", timeout=None))
            assert await within(worker.request(["echo", 1], timeout=None)) == 1

    async def test_nobody_answers(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await within(worker.request("anyone?", timeout=None))

    async def test_one_handler_a_side_and_an_async_one(self, tmp_path):
        async def handler(message, handle):
            return "mine"

        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            with pytest.raises(TypeError, match="async def"):
                worker.answer(lambda message, handle: None)  # type: ignore[arg-type, return-value]
            subscription = worker.answer(handler)
            with pytest.raises(RuntimeError, match="answers already"):
                worker.answer(handler)
            assert await within(worker.request(["ask back", 1], timeout=None)) == "mine"
            subscription.cancel()
            with pytest.raises(RequestFailed, match="nobody answers"):
                await within(worker.request(["ask back", 1], timeout=None))

    async def test_a_timeout_is_the_callers_and_a_late_answer_is_dropped(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            await within(worker.request(["echo", 0], timeout=None))
            with pytest.raises(RequestTimeout) as caught:
                await worker.request(["after", "a"], timeout=0.02)
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.timeout, caught.value.errno) == (0.02, None)
            await within(worker.request(["set", "a"], timeout=None))
            assert await within(worker.request(["echo", 1], timeout=scaled(10))) == 1

    async def test_a_cancelled_caller_hurts_nobody(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            asking = asyncio.create_task(worker.request(["after", "a"], timeout=None))
            await turn(3)
            asking.cancel()
            await within(worker.request(["set", "a"], timeout=None))
            assert await within(worker.request(["echo", 1], timeout=None)) == 1

    async def test_the_peers_death_is_channel_closed_with_its_status(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            hanging = asyncio.create_task(worker.request(["hang", None], timeout=None))
            with pytest.raises(ChannelClosed, match="exit status 9") as caught:
                await within(worker.request(["exit", 9], timeout=None))
            assert caught.value.status == ExitStatus(code=9)
            with pytest.raises(ChannelClosed):
                await within(hanging)
            with pytest.raises(ChannelClosed) as caught:
                await worker.request("too late", timeout=None)
            assert caught.value.status == ExitStatus(code=9)

    @pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "1", True])
    async def test_a_timeout_that_is_none(self, tmp_path, timeout):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            with pytest.raises(ValueError, match="timeout"):
                await cluster.fork().request("x", timeout=timeout)


class TestTakers:
    async def test_streams_and_callbacks_of_worker_and_cluster_all_get_each(self, tmp_path):
        seen: list[object] = []
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            cluster.on(Message, lambda message: seen.append(("cluster", message.worker.id, message.message)))
            worker = cluster.fork()
            worker.on(Message, lambda message: seen.append(("worker", message.message)))
            worker.once(Message, lambda message: seen.append(("once", message.message)))
            messages = worker.messages()
            for number in range(2):
                await worker.send(number)
            assert [(await within(anext(messages))).message for _ in range(2)] == [0, 1]
        assert sorted(map(str, seen)) == sorted(
            map(
                str,
                [
                    ("cluster", 1, 0),
                    ("cluster", 1, 1),
                    ("worker", 0),
                    ("worker", 1),
                    ("once", 0),
                ],
            )
        )

    async def test_cluster_once_is_once_for_all_workers(self, tmp_path):
        seen: list[object] = []
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            workers = [cluster.fork() for _ in range(2)]
            cluster.once(Message, lambda message: seen.append(message.worker))
            streams = [worker.messages() for worker in workers]
            for worker, stream in zip(workers, streams, strict=True):
                await worker.send("x")
                await within(anext(stream))
            later = cluster.fork()
            stream = later.messages()
            await later.send("x")
            await within(anext(stream))
        assert seen == [workers[0]]

    async def test_a_cancelled_subscription_hears_no_more(self, tmp_path):
        seen: list[object] = []
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            with worker.on(Message, lambda message: seen.append(message.message)):
                await worker.send(1)
                await within(anext(messages))
            await worker.send(2)
            await within(anext(messages))
        assert seen == [1]

    async def test_messages_wait_for_the_first_taker(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()

            async def answered() -> None:  # everything before it has arrived
                with contextlib.suppress(RequestFailed):
                    await worker.request("", timeout=None)

            for number in range(3):
                await worker.send(number)
            await answered()
            await answered()
            first = worker.messages()
            assert (await within(anext(first))).message == 0
            await first.aclose()
            second = worker.messages()
            assert [(await within(anext(second))).message for _ in range(2)] == [1, 2]

    async def test_a_callback_that_raises_is_logged_by_name_and_hurts_nobody(self, tmp_path, caplog):
        seen: list[object] = []

        def fails(message):
            raise LookupError("on purpose")

        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            worker.on(Message, fails)
            worker.on(Message, lambda message: seen.append(message.message))
            messages = worker.messages()
            await worker.send("x")
            await within(anext(messages))
        assert seen == ["x"]
        assert "fails" in caplog.text
        assert "on purpose" in caplog.text

    async def test_a_coroutine_function_is_no_taker(self, tmp_path):
        async def wrong(message):
            pass

        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            for on in (worker.on, worker.once, cluster.on, cluster.once):
                with pytest.raises(TypeError, match="coroutine function"):
                    on(Message, wrong)
        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="coroutine function"):
                cluster.on(Message, wrong)

    async def test_events_carries_no_messages(self):
        async with Cluster() as cluster:
            with pytest.raises(TypeError, match="messages"):
                cluster.events(Message)

    async def test_the_streams_end_with_the_worker(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            await worker.send("one")
            await within(anext(messages))
            worker.disconnect()
            assert [message async for message in messages] == []
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_in_the_worker_once_is_for_the_next_alone(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            me.once(everycore.Message, lambda message: me.send_nowait(["once", message.message]))
            me.on(everycore.Message, lambda message: me.send_nowait(["on", message.message]))
            me.once(everycore.Disconnected, lambda event: open("disconnected", "w").close())
            try:
                me.once(everycore.Message, for_ever)
            except TypeError:
                await me.wait_shutdown()
        everycore.run(main())
        """
        settings = Settings(exec=worker_script(tmp_path, source), cwd=tmp_path)
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            for number in range(2):
                await worker.send(number)
            answers = [(await within(anext(messages))).message for _ in range(3)]
            assert answers == [["once", 0], ["on", 0], ["on", 1]]
            worker.disconnect()
            await within(worker.wait())
            assert (tmp_path / "disconnected").exists()

    async def test_in_the_worker_callbacks_and_the_end(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            me.on(everycore.Message, lambda message: me.send_nowait([message.message, message.worker is me]))
            me.on(everycore.Disconnected, lambda event: open("disconnected", "w").close())
            await for_ever()
        everycore.run(main())
        """
        settings = Settings(exec=worker_script(tmp_path, source), cwd=tmp_path)
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            await worker.send("x")
            assert (await within(anext(worker.messages()))).message == ["x", True]
            worker.disconnect()
            await within(worker.wait())
            assert (tmp_path / "disconnected").exists()


class TestBroadcast:
    async def test_it_reaches_every_connected_worker_and_says_how_many(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            assert await cluster.broadcast("nobody") == 0
            workers = [cluster.fork() for _ in range(3)]
            diary = Diary(cluster)
            streams = [worker.messages() for worker in workers]
            assert await within(cluster.broadcast("all")) == 3
            assert [(await within(anext(stream))).message for stream in streams] == ["all"] * 3
            workers[1].kill(SIGKILL)
            await within(workers[1].wait())
            assert await within(cluster.broadcast("rest")) == 2
            assert diary.names(workers[1])[-1] == "Exited"


class TestDeadWorkers:
    async def test_every_call_is_channel_closed_with_the_status(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            worker.kill(SIGKILL)
            await within(worker.wait())
            for call in (
                worker.send,
                worker.send_nowait,
                lambda message: worker.request(message, timeout=None),
            ):
                with pytest.raises(ChannelClosed, match="SIGKILL") as caught:
                    call("x")
                assert caught.value.status == ExitStatus(signal=SIGKILL)
                assert isinstance(caught.value, ConnectionError)

    async def test_a_worker_after_its_primary_closed_the_cluster(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            closed = asyncio.Event()
            me.on(everycore.Disconnected, lambda event: closed.set())
            await me.send("here")
            await me.wait_shutdown()
            await closed.wait()
            assert not me.is_connected()
            try:
                await me.send("too late")
            except everycore.ChannelClosed as error:
                sys.exit(5)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            await within(anext(worker.messages()))
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=5)
