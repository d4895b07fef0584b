"""Callbacks and iterators over events."""

import asyncio
import gc
from typing import Any

import pytest

from everycore.aio.emitter import Emitter
from everycore.events import Event, Forked, Message, Online, SetUp, WorkerEvent
from everycore.settings import Settings
from tests.kit import turn

NOBODY: Any = None


def forked(seq=1):
    return Forked(seq=seq, at=0.0, worker=NOBODY)


def online(seq=1):
    return Online(seq=seq, at=0.0, worker=NOBODY)


def test_callbacks_run_at_once_in_the_order_of_subscription():
    emitter = Emitter()
    calls: list[Any] = []
    emitter.on(Forked, lambda event: calls.append(("a", event.seq)))
    emitter.on(Forked, lambda event: calls.append(("b", event.seq)))
    emitter.on(Online, lambda event: calls.append(("c", event.seq)))
    emitter.emit(forked(7))
    assert calls == [("a", 7), ("b", 7)]


def test_a_base_class_stands_for_all_below_it():
    emitter = Emitter()
    calls: list[Any] = []
    emitter.on(WorkerEvent, calls.append)
    emitter.on(Event, calls.append)
    setup = SetUp(seq=1, at=0.0, settings=Settings())
    emitter.emit(setup)
    emitter.emit(event := forked())
    assert calls == [setup, event, event]


def test_once_is_called_once_even_if_it_emits():
    emitter = Emitter()
    calls: list[Any] = []

    def again(event):
        calls.append(event.seq)
        emitter.emit(forked(event.seq + 1))

    emitter.once(Forked, again)
    emitter.emit(forked(1))
    emitter.emit(forked(9))
    assert calls == [1]


def test_subscriptions_end_by_cancel_and_by_with():
    emitter = Emitter()
    calls: list[Any] = []
    subscription = emitter.on(Forked, calls.append)
    assert subscription.is_active
    subscription.cancel()
    subscription.cancel()
    assert not subscription.is_active
    with emitter.on(Forked, calls.append):
        emitter.emit(forked(1))
    emitter.emit(forked(2))
    assert [event.seq for event in calls] == [1]


def test_a_callback_cancelled_or_added_during_an_event_does_not_get_it():
    emitter = Emitter()
    calls: list[Any] = []

    def first(event):
        second.cancel()
        emitter.on(Forked, lambda event: calls.append("late"))

    emitter.on(Forked, first)
    second = emitter.on(Forked, lambda event: calls.append("second"))
    emitter.emit(forked())
    assert calls == []


def test_a_callback_that_raises_is_logged_and_others_run(caplog):
    emitter = Emitter()
    calls: list[Any] = []

    def broken(event):
        raise LookupError("nothing here")

    emitter.on(Forked, broken)
    emitter.on(Forked, calls.append)
    emitter.emit(forked())
    assert len(calls) == 1
    assert caplog.records[0].name == "everycore.aio"
    assert "test_a_callback_that_raises_is_logged_and_others_run.<locals>.broken" in caplog.text
    assert "LookupError: nothing here" in caplog.text


async def _coroutine(event):
    pass


class _AsyncCall:
    async def __call__(self, event):
        pass


@pytest.mark.parametrize(
    "callback", [_coroutine, _AsyncCall(), None, 3], ids=["coroutine", "object", "None", "number"]
)
def test_callbacks_are_plain_functions(callback):
    for subscribe in (Emitter().on, Emitter().once):
        with pytest.raises(TypeError, match="a callback must be"):
            subscribe(Forked, callback)


@pytest.mark.parametrize(
    "event_type", [int, "Forked", None, forked()], ids=lambda value: type(value).__name__
)
async def test_only_event_classes_are_known(event_type):
    emitter = Emitter()
    for subscribe in (emitter.on, emitter.once, lambda kind, _: emitter.events(kind)):
        with pytest.raises(TypeError, match="is not an event class"):
            subscribe(event_type, print)


async def test_an_iterator_subscribes_at_the_call_and_ends_after_what_is_queued():
    emitter = Emitter()
    stream = emitter.events(Forked)
    everything = emitter.events()
    for seq in range(5000):  # no bound: none is dropped
        emitter.emit(forked(seq))
    emitter.emit(online(1))
    emitter.close()
    emitter.emit(forked(9))
    assert [event.seq async for event in stream] == list(range(5000))
    assert len([event async for event in everything]) == 5001
    assert [event async for event in emitter.events()] == []
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_waiting_readers_are_woken_by_events_and_by_closing():
    emitter = Emitter()
    stream = emitter.events()
    readers = [asyncio.ensure_future(anext(stream, "end")) for _ in range(3)]
    await turn()
    readers[0].cancel()
    emitter.emit(forked(1))
    await turn(3)
    assert readers[0].cancelled()
    assert sum(reader.done() for reader in readers[1:]) == 1
    await stream.aclose()
    assert {await reader for reader in readers[1:]} == {forked(1), "end"}


async def test_a_stream_is_a_context_and_stops_listening_when_it_ends():
    emitter = Emitter()
    async with emitter.events() as stream:
        emitter.emit(forked(1))
        assert (await anext(stream)).seq == 1
        assert len(emitter._feeds) == 1
    assert not emitter._feeds
    assert [event async for event in stream] == []


async def test_a_dropped_stream_gathers_nothing():
    emitter = Emitter()
    emitter.emit(forked(1))
    emitter_events = emitter.events()
    emitter.emit(forked(2))
    async for event in emitter_events:
        assert event.seq == 2
        break
    del emitter_events
    gc.collect()
    assert not emitter._feeds


async def test_a_stream_collected_by_another_thread_stops_in_its_loop():
    emitter = Emitter()
    holder = [emitter.events()]
    await asyncio.to_thread(holder.clear)
    await turn()
    assert not emitter._feeds
    await asyncio.get_running_loop().shutdown_default_executor()


def test_an_event_never_changes():
    made = Message(seq=3, at=1.5, worker=NOBODY, message={"a": 1})
    with pytest.raises(AttributeError, match="immutable"):
        made.seq = 4  # type: ignore[misc]


def test_a_stream_outside_a_loop_is_refused_and_leaves_nothing():
    with pytest.raises(RuntimeError, match="no running event loop"):
        Emitter().events()
