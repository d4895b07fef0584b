"""Messages of any class, by pickle: only the consumer unpickles one."""

import collections
import enum
from typing import NamedTuple

import pytest

from everycore.errors import RequestFailed
from tests.kit import turn
from tests.kit.channel_pairs import Boxes, take, until, values


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


_loads: list[str] = []


def _load(value):
    _loads.append(value)
    if value == "bad":
        raise LookupError("no such thing")
    return value


class Loaded:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return _load, (self.value,)


async def test_pickle_is_decoded_by_its_consumer_alone(caplog):
    _loads.clear()
    async with Boxes(serialization="pickle") as (primary, worker):
        for value in (Colour.RED, {1, 2}, Loaded("good"), Loaded("bad"), "end"):
            await primary.mailbox.send(value)
        await until(lambda: len(worker.mailbox._delivery._backlog) == 5)
        stream = worker.mailbox.messages()
        await turn(5)
        assert _loads == []
        assert values(await take(stream, 4)) == [Colour.RED, {1, 2}, "good", "end"]
        assert _loads == ["good", "bad"]
        assert "could not be decoded and is dropped" in caplog.text
        assert not worker.losses


async def test_pickled_requests_that_can_not_be_loaded_fail():
    async with Boxes(serialization="pickle") as (primary, worker):

        async def handler(message, handle):
            return Loaded("bad") if message == "reply" else message

        worker.mailbox.answer(handler)
        assert await primary.mailbox.request(Colour.RED, timeout=10) is Colour.RED
        for message in ("reply", Loaded("bad")):
            with pytest.raises(RequestFailed, match=r"LookupError: .*no such thing"):
                await primary.mailbox.request(message, timeout=10)
        with pytest.raises(Exception, match=r"[Pp]ickle"):
            primary.mailbox.send_nowait(lambda: None)
        assert not primary.losses


async def test_named_tuples_and_ordered_dicts_arrive_plain():
    async with Boxes() as (primary, worker):
        await primary.mailbox.send(collections.OrderedDict(a=Point(1, 2)))
        assert values(await take(worker.mailbox.messages(), 1)) == [{"a": [1, 2]}]
