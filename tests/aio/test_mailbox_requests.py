"""Requests and their answers, between two mailboxes over a real socket pair."""

import asyncio
import functools
import os
import socket

import pytest

from everycore.core.window import WINDOW
from everycore.errors import ChannelClosed, RequestFailed, RequestTimeout
from everycore.model import ExitStatus
from tests.kit import turn
from tests.kit.channel_pairs import MAX_MESSAGE, Boxes, until


async def echo(message, handle):
    return {"you said": message}


async def test_requests_are_answered_both_ways_at_once(loop_factory):
    async with Boxes() as (primary, worker):
        for end in (primary, worker):
            end.mailbox.answer(echo)
        replies = await asyncio.gather(
            *(end.mailbox.request(n, timeout=30) for n in range(3000) for end in (primary, worker))
        )
        assert replies == [{"you said": n} for n in range(3000) for _ in range(2)]


async def test_a_request_carries_a_handle_that_the_handler_owns():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            handle.sendall(b"from the worker")
            handle.close()
            return message

        worker.mailbox.answer(handler)
        assert await primary.mailbox.request("x", left, timeout=None) == "x"
        assert left.fileno() == -1
        assert right.recv(100) == b"from the worker"
    right.close()


async def test_a_handler_that_raises_fails_the_request():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            if message == "closed":
                raise ChannelClosed("worker 7")
            if message == "odd":
                raise Odd
            if message == "value":
                return {1, 2}
            if message == "large":
                return "x" * (MAX_MESSAGE + 1)
            raise LookupError("no \ud800 " + "x" * 100_000)

        worker.mailbox.answer(handler)
        for message, type_name, text in (
            ("raise", "LookupError", "no ? xxx"),
            ("closed", "ChannelClosed", "the channel to worker 7 is closed"),
            ("odd", "Odd", "(its text could not be made)"),
            ("value", "TypeError", "message: set is not a value that can be sent"),
            ("large", "ValueError", "a message of"),
        ):
            with pytest.raises(RequestFailed) as caught:
                await primary.mailbox.request(message, timeout=10)
            assert caught.value.type_name == type_name
            assert caught.value.text.startswith(text)
            assert len(caught.value.text) <= 2000


async def test_without_a_handler_a_request_fails_and_its_handle_is_closed():
    left, right = socket.socketpair()
    async with Boxes() as (primary, worker):
        with pytest.raises(RequestFailed, match="nobody answers requests") as caught:
            await primary.mailbox.request("x", left, timeout=10)
        assert caught.value.type_name == "LookupError"
        assert right.recv(1) == b""
        worker.mailbox.answer(echo).cancel()
        with pytest.raises(RequestFailed, match="nobody answers requests"):
            await primary.mailbox.request("x", timeout=10)
    right.close()


async def test_there_is_one_handler_a_side_and_it_is_a_coroutine_function():
    async with Boxes() as (_, worker):
        with pytest.raises(TypeError, match="must be a coroutine function"):
            worker.mailbox.answer(lambda message, handle: 3)
        subscription = worker.mailbox.answer(functools.partial(echo))
        with pytest.raises(RuntimeError, match="echo answers already"):
            worker.mailbox.answer(echo)
        subscription.cancel()
        with worker.mailbox.answer(echo):
            subscription.cancel()  # of the first: the second stays
            with pytest.raises(RuntimeError):
                worker.mailbox.answer(echo)


async def test_requests_time_out_and_late_answers_are_ignored():
    async with Boxes() as (primary, worker):
        go = asyncio.Event()

        async def slow(message, handle):
            await go.wait()
            return message

        worker.mailbox.answer(slow)
        with pytest.raises(RequestTimeout, match=r"the worker did not answer within 0.001 s"):
            await primary.mailbox.request("x", timeout=0.001)
        cancelled = asyncio.ensure_future(primary.mailbox.request("y", timeout=None))
        await turn(3)
        cancelled.cancel()
        go.set()
        assert await primary.mailbox.request("z", timeout=10) == "z"
        assert not primary.losses
        assert not primary.mailbox._requests._replies
        for bad in (-1, float("nan"), "3", True):
            with pytest.raises(ValueError, match="timeout"):
                primary.mailbox.request("x", timeout=bad)


async def test_each_request_has_a_deadline_of_its_own():
    async with Boxes() as (primary, worker):
        go = asyncio.Event()

        async def slow(message, handle):
            await go.wait()
            return message

        worker.mailbox.answer(slow)
        order = []

        async def ask(timeout):
            try:
                await primary.mailbox.request("x", timeout=timeout)
            except RequestTimeout:
                order.append(timeout)

        asking = [asyncio.ensure_future(ask(timeout)) for timeout in (60, 0.02, None, 0.001, 0.04)]
        await asyncio.gather(asking[1], asking[3], asking[4])
        assert order == [0.001, 0.02, 0.04]
        go.set()
        await asyncio.gather(*asking)
        assert order == [0.001, 0.02, 0.04]
        assert not primary.mailbox._requests._deadlines


async def test_a_lost_channel_fails_requests_with_the_peers_status():
    async with Boxes() as (primary, worker):

        async def never(message, handle):
            await asyncio.Event().wait()

        worker.mailbox.answer(never)
        request = asyncio.ensure_future(primary.mailbox.request("x", timeout=None))
        await until(lambda: worker.mailbox._requests._handling)
        primary.mailbox.peer_status = status = ExitStatus(code=3)
        worker.close()
        with pytest.raises(ChannelClosed, match=r"the worker is closed \(exit status 3\)") as caught:
            await request
        assert caught.value.status is status
        for call in (primary.mailbox.send, primary.mailbox.send_nowait):
            with pytest.raises(ChannelClosed, match="exit status 3"):
                call("x")
        with pytest.raises(ChannelClosed, match="exit status 3"):
            primary.mailbox.request("x", timeout=1)
        with pytest.raises(ChannelClosed, match="exit status 3"):
            await primary.mailbox.wait_room()


async def test_a_sender_that_waits_hears_of_the_end():
    async with Boxes(buffer_limit=1000) as (primary, worker):
        primary.channel.outbox.hold(5000)
        sending = asyncio.ensure_future(primary.mailbox.send("x"))
        await turn(2)
        worker.channel.close()
        with pytest.raises(ChannelClosed):
            await sending


async def test_a_cancelled_handler_fails_its_request():
    async with Boxes() as (primary, worker):

        async def handler(message, handle):
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.Event().wait()

        worker.mailbox.answer(handler)
        with pytest.raises(RequestFailed, match="CancelledError"):
            await primary.mailbox.request("x", timeout=10)


@pytest.mark.parametrize("is_taken_back", [False, True])
async def test_a_handler_that_is_cancelled_before_its_first_step_fails_its_request_and_closes_its_handle(
    is_taken_back,
):
    """As at the end of `asyncio.run`, which cancels every task."""
    async with Boxes() as (primary, worker):
        worker.mailbox.answer(echo)
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as mine, open(writing, "wb", buffering=0) as theirs:  # noqa: ASYNC230
            requests = worker.mailbox._requests
            asked, cancelled = requests.asked, []

            def ask_and_cancel(ask, fds):
                asked(ask, fds)
                for task in tuple(requests._handling):
                    cancelled.append(task.cancel())
                    if is_taken_back:
                        task.uncancel()  # from 3.13 on, the coroutine then runs after all

            requests.asked = ask_and_cancel
            with pytest.raises(RequestFailed, match="CancelledError"):
                await primary.mailbox.request("x", theirs, timeout=10)
            assert mine.read(1) == b""  # every copy of the other end is closed
            assert cancelled == [True]
            assert not requests._handling


async def test_open_requests_are_bounded_by_the_window():
    async with Boxes() as (primary, worker):
        go, running = asyncio.Event(), 0

        async def handler(message, handle):
            nonlocal running
            running += 1
            await go.wait()

        worker.mailbox.answer(handler)
        requests = [
            asyncio.ensure_future(primary.mailbox.request(n, timeout=None)) for n in range(WINDOW + 100)
        ]
        await turn(50)
        assert running == WINDOW
        go.set()
        await asyncio.gather(*requests)
        assert running == WINDOW + 100
