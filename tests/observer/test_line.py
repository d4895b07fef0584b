"""The observer's connection to the primary: answers in order, late answers, and its end."""

import asyncio
import contextlib
import socket

import pytest

from everycore.core.control import VERSION, AskHello, AskStatus, ServiceName, reply_line
from everycore.errors import ControlError
from everycore.observer.line import TIMEOUT, open_line
from everycore.testing import VirtualTimeLoop
from tests.kit import pass_time, turn

HELLO = AskHello(v=VERSION)


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


@contextlib.asynccontextmanager
async def ends():
    ours, theirs = socket.socketpair()
    line = await open_line(theirs.detach())
    ours.setblocking(False)
    with ours:
        yield line, ours
        await line.close()


def named(name):
    return reply_line(ServiceName(name=name, kind="serve", pid=1, version="1"))


async def asked(line):
    task = asyncio.ensure_future(line.ask(HELLO, ServiceName))
    await turn()
    return task


async def test_answers_come_in_order():
    async with ends() as (line, primary):
        one, other = await asked(line), await asked(line)
        assert primary.recv(1000) == b'{"op":"hello","v":1}\n' * 2
        primary.sendall(named("one") + named("other"))
        assert ((await one).name, (await other).name) == ("one", "other")


async def test_a_late_answer_is_dropped():
    async with ends() as (line, primary):
        late = await asked(line)
        await pass_time(TIMEOUT + 0.1)
        with pytest.raises(ControlError, match="does not answer within 2 s"):
            await late
        again = await asked(line)
        primary.sendall(named("late") + named("again"))
        assert (await again).name == "again"


async def test_a_primary_that_answers_nothing_is_asked_no_more():
    async with ends() as (line, primary):
        tasks = [await asked(line) for _ in range(20)]
        await turn()
        assert primary.recv(10000).count(b"\n") == 16
        await pass_time(TIMEOUT + 0.1)
        assert all(isinstance(task.exception(), ControlError) for task in tasks)


async def test_a_refusal_is_an_error():
    async with ends() as (line, primary):
        task = asyncio.ensure_future(line.ask(AskStatus(v=VERSION), ServiceName))
        await turn()
        primary.sendall(b'{"v":1,"ok":false,"error":{"kind":"forbidden","text":"no"}}\n')
        with pytest.raises(ControlError, match="no"):
            await task


@pytest.mark.parametrize("last", [b"", b"nonsense\n", b"{}\n"])
async def test_waiting_callers_learn_of_its_end(last):
    async with ends() as (line, primary):
        task = await asked(line)
        primary.sendall(last)
        primary.shutdown(socket.SHUT_WR)
        await line.ended.wait()
        with pytest.raises(ControlError):
            await task
        with pytest.raises(ControlError):
            await line.ask(HELLO, ServiceName)
