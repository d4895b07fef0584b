"""Messages and requests between a primary and real workers, each feature once: order, limits, back-pressure.

Values, takers and errors in all their variety: `tests/primary/test_cluster_messages.py`, in memory.
"""

import asyncio
import math
from signal import SIGKILL, SIGSTOP, SIGUSR1

import pytest

from everycore import (
    ChannelClosed,
    ChannelFull,
    Cluster,
    ExitStatus,
    Settings,
)
from tests.kit import turn
from tests.kit.workers import eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: reading and writing much. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

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

async def main():
    global events, me
    events = {name: asyncio.Event() for name in "abc"}
    me = everycore.current_worker()
    me.answer(answer)
    await for_ever()
everycore.run(main())
"""


class TestValues:
    async def test_what_comes_back_is_what_went(self, tmp_path):
        values: list[object] = [
            None,
            True,
            -(2**63),
            2**64 - 1,
            1.5,
            math.inf,
            "grüße \0 \U0001f600",
            bytes(range(256)),
            [{}],
        ]
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            for value in values:
                await worker.send(value)
                back = (await within(anext(messages))).message
                assert (back, type(back)) == (value, type(value))

    async def test_pickle_carries_what_the_other_side_knows(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, MIRROR), serialization="pickle")
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            value = ({1, 2}, 3 + 4j, frozenset("a"), 2**70)
            await worker.send(value)
            assert (await within(anext(worker.messages()))).message == value

    @both_loops
    async def test_sixteen_mebibytes_both_ways(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, MIRROR))) as cluster:
            worker = cluster.fork()
            messages = worker.messages()
            big = b"\xa5" * (16 * 1024 * 1024 - 5)
            await within(worker.send(big))
            assert (await within(anext(messages))).message == big


@both_loops
class TestOrder:
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
        """`run` flushes, even if main leaves by SystemExit and has sent more than the socket holds."""
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
    @both_loops
    async def test_towards_a_worker_that_does_not_take_them(self, tmp_path):
        """`send_nowait` refuses, `send` waits; when the worker goes on, all arrive, in order."""
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
                # It may be full for a moment: the worker still reads as much as the window allows.
                if not (await asyncio.wait([waiting], timeout=0.1))[0]:
                    break
                assert sent < 10_000
            worker.kill(SIGUSR1)
            await within(waiting)
            await worker.send(None)
            assert (await within(anext(messages))).message == sent

    @both_loops
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
            # Other messages still pass both ways: only the program's wait.
            got: list[int] = []
            async for message in worker.messages():
                if message.message[0] == "sent":
                    assert message.message[1] == len(got)
                    break
                got.append(message.message[0])
            assert got == list(range(len(got)))
            assert len(got) > 1024
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

    @both_loops
    async def test_many_at_once_answered_out_of_order(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ANSWERS))) as cluster:
            worker = cluster.fork()
            waiting = [asyncio.create_task(worker.request(["after", name], timeout=None)) for name in "abc"]
            for name in "cba":
                await within(worker.request(["set", name], timeout=None))
            assert await within(asyncio.gather(*waiting)) == ["a", "b", "c"]
            many = [worker.request(["echo", number], timeout=None) for number in range(3000)]
            assert await within(asyncio.gather(*many)) == list(range(3000))

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


class TestTakers:
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


class TestDeadWorkers:
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
