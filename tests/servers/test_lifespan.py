"""The ASGI lifespan, with applications that keep to it and applications that do not."""

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest

from everycore.servers.lifespan import Lifespan
from everycore.servers.loading import CannotBootError


async def good(scope, receive, send):
    """Keeps to the protocol, and records what happens in its state."""
    if scope["type"] != "lifespan":
        await send(scope["state"])
        return
    scope["state"]["log"] = log = []
    log.append(await receive())
    await send({"type": "lifespan.startup.complete"})
    log.append(await receive())
    await send({"type": "lifespan.shutdown.complete"})
    log.append("end")


async def request(lifespan: Lifespan) -> Any:
    sent = []

    async def send(message):
        sent.append(message)

    async def receive(): ...

    await lifespan({"type": "http"}, receive, send)
    return sent[0]


async def test_start_and_stop():
    lifespan = Lifespan(good)
    await lifespan.startup()
    state = await request(lifespan)
    await lifespan.shutdown()
    assert state["log"] == [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, "end"]


async def test_a_lifespan_that_forgets_holds_neither_application_nor_state():
    class Application:
        async def __call__(self, scope, receive, send):
            scope["state"]["app"] = self
            await good(scope, receive, send)

    app = Application()
    held = weakref.ref(app)
    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    del app
    lifespan.forget()
    gc.collect()
    assert held() is None
    with pytest.raises(RuntimeError, match="has been shut down"):
        await request(lifespan)


async def test_every_request_has_its_own_copy_of_the_state():
    lifespan = Lifespan(good)
    await lifespan.startup()
    (await request(lifespan))["mine"] = 1
    assert "mine" not in await request(lifespan)
    await lifespan.shutdown()


async def test_waits_for_the_start():
    go = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await go.wait()
        await send({"type": "lifespan.startup.complete"})

    lifespan = Lifespan(app)
    starting = asyncio.create_task(lifespan.startup())
    assert not (await asyncio.wait([starting], timeout=0))[0]
    go.set()
    await starting
    await lifespan.shutdown()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"message": "Traceback\nRuntimeError: no database\n"}, "Traceback\nRuntimeError: no database"),
        ({"message": ""}, "does not say why"),
        ({}, "does not say why"),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
async def test_failed_start_is_a_failure_to_boot(message, text, raises, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", **message})
        if raises:  # as Starlette does
            raise RuntimeError("no database")

    lifespan = Lifespan(app)
    with pytest.raises(CannotBootError) as caught:
        await lifespan.startup()
    await lifespan.shutdown()
    assert text in caught.value.report.text
    assert not caplog.records


async def test_exit_in_the_start_is_a_failure_to_boot():
    async def app(scope, receive, send):
        raise SystemExit(5)

    lifespan = Lifespan(app)
    with pytest.raises(CannotBootError) as caught:
        await lifespan.startup()
    assert caught.value.report.text.endswith("SystemExit: 5")
    assert "lifespan.py" not in caught.value.report.text.split("test_lifespan.py")[0]


@pytest.mark.parametrize(("knows", "level"), [(False, logging.DEBUG), (True, logging.WARNING)])
async def test_application_without_lifespan_is_served(knows, level, caplog):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            if knows:
                await receive()
            raise RuntimeError("what is a lifespan?")
        await send("served")

    caplog.set_level(logging.DEBUG, "everycore")
    lifespan = Lifespan(app)
    await lifespan.startup()
    assert await request(lifespan) == "served"
    await lifespan.shutdown()
    assert [record.levelno for record in caplog.records] == [level]


async def test_application_that_returns_at_once_is_served():
    async def app(scope, receive, send):
        return

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()


@pytest.mark.parametrize("answer", [{"type": "lifespan.shutdown.failed", "message": "disk full"}, None])
async def test_failed_stop_is_logged_and_ends(answer, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if answer is None:
            raise OSError("disk full")
        await send(answer)

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    assert "disk full" in caplog.text


async def test_shutdown_without_startup_does_nothing():
    await Lifespan(good).shutdown()


# --lifespan


async def without(scope, receive, send):
    """Does not support the lifespan protocol."""
    assert scope["type"] == "http"
    await send(scope["state"])


async def test_on_wants_a_lifespan():
    with pytest.raises(
        CannotBootError, match=r"has no lifespan \(--lifespan on\):\nTraceback(?s:.)*AssertionError"
    ):
        await Lifespan(without, "on").startup()
    lifespan = Lifespan(good, "on")
    await lifespan.startup()
    await lifespan.shutdown()


async def test_off_does_not_call_the_application():
    lifespan = Lifespan(good, "off")
    await lifespan.startup()
    assert await request(lifespan) == {}
    await lifespan.shutdown()


async def test_auto_serves_without():
    lifespan = Lifespan(without, "auto")
    await lifespan.startup()
    assert await request(lifespan) == {}
    await lifespan.shutdown()
