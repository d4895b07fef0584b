"""hypercorn as the engine, in this process: what its clients notice, and what its end waits for."""

import asyncio
import contextlib
import logging
import socket

import pytest

from everycore.foreign.hypercorn_internals import capabilities
from everycore.servers.hypercorn_engine import HypercornEngine
from everycore.servers.loading import CannotBootError
from tests.kit import scaled
from tests.kit.http2_clients import WINDOW, Http2Connection

NO_MORE_STREAMS = 2**31 - 1


class FakeExit:
    """A cluster that counts nothing: only requests under way keep the engine."""

    is_alone = False
    spares_idle = True
    may_hand_on = is_undecided = False
    open = 0

    def __init__(self, grace):
        self._loop = asyncio.get_running_loop()
        self._grace = grace
        self.deadline = 0.0
        self.is_asked = asyncio.Event()

    async def asked(self):
        await self.is_asked.wait()
        self.deadline = self._loop.time() + self._grace

    def hand_on(self, fd):
        raise AssertionError

    def take_over(self, _new, _began):
        raise AssertionError


class Application:
    """Answers at once; /wait when the test says so; /fail never; /read with the length of the body."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.cancelled = False

    async def __call__(self, scope, receive, send):
        body = scope["path"].encode()
        match scope["path"]:
            case "/fail":
                raise ValueError("a mistake of the application's")
            case "/read":
                length, has_more = 0, True
                while has_more:
                    message = await receive()
                    length, has_more = length + len(message["body"]), message["more_body"]
                body = b"%d" % length
            case "/wait":
                self.begun.set()
                try:
                    await self.may_answer.wait()
                except asyncio.CancelledError:
                    self.cancelled = True
                    raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def engine(app, grace=20.0, **options):
    """Its port and its exit. At the end it is asked to leave, and its end is awaited."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving, way_out = asyncio.Event(), FakeExit(grace)
        made = HypercornEngine(app, access_log=False, spread=None, options=options)
        served = asyncio.ensure_future(made.serve([listener], serving.set, way_out))
        await serving.wait()
        try:
            yield listener.getsockname()[1], way_out
        finally:
            way_out.is_asked.set()
            async with asyncio.timeout(scaled(20)):
                await served


async def test_a_client_of_http2_is_told_when_it_is_idle_and_its_request_is_answered():
    app = Application()
    async with engine(app) as (port, way_out):
        idle, busy = await Http2Connection.open(port), await Http2Connection.open(port)
        assert await idle.ask("/x") == b"/x"
        answer = busy.begin("/wait")
        await app.begun.wait()
        way_out.is_asked.set()
        if capabilities().goaway:
            await idle.told.wait()
            assert idle.goaways[0] == NO_MORE_STREAMS
            assert busy.goaways == []
            assert await idle.ask("/late") == b"/late"  # the client did not know of it yet
        app.may_answer.set()
        assert (await answer)[1] == b"/wait"
        if capabilities().goaway:
            await busy.told.wait()
        await idle.close()
        await busy.close()


async def test_one_that_is_never_idle_is_told_after_a_while():
    app = Application()
    async with engine(app, grace=0.5) as (port, way_out):
        connection = await Http2Connection.open(port)
        answer = connection.begin("/wait")
        await app.begun.wait()
        way_out.is_asked.set()
        if capabilities().goaway:
            await connection.told.wait()
            assert not answer.done()
        app.may_answer.set()
        assert (await answer)[1] == b"/wait"
        await connection.close()


async def test_what_is_left_when_the_grace_is_over_is_cut_off_and_named(caplog):
    app = Application()
    with caplog.at_level(logging.ERROR, logger="everycore"):
        async with engine(app, grace=0.3) as (port, way_out):
            connection = await Http2Connection.open(port)
            answer = connection.begin("/wait")
            await app.begun.wait()
            way_out.is_asked.set()
            head, _ = await answer
            assert head[":status"] == "500"
            await connection.close()
    assert app.cancelled
    assert "cut off GET /wait from 127.0.0.1:" in caplog.text


@pytest.mark.parametrize(("path", "status"), [("/x", "200"), ("/fail", "500"), ("/read", "200")])
async def test_an_unread_body_does_not_end_the_connection(path, status):
    async with engine(Application()) as (port, _):
        connection = await Http2Connection.open(port)
        for _ in range(2):
            head, _ = await connection.begin(path, b"x" * (WINDOW // 2))
            assert head[":status"] == status
        await connection.close()


async def test_headers_of_everycore_come_before_those_of_hypercorn():
    async with engine(Application(), headers=("Server: ours", "X-A: b:c"), date_header=False) as (port, _):
        connection = await Http2Connection.open(port)
        head, _ = await connection.begin()
        assert head == {":status": "200", "server": "ours", "x-a": "b:c"}
        await connection.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ssl_certfile": "/nowhere"}, "hypercorn refuses its options: FileNotFoundError"),
        ({"ssl_cert_reqs": 7}, "hypercorn refuses its options: ValueError: 7 is not a valid VerifyMode"),
    ],
)
async def test_options_that_hypercorn_refuses_are_one_sentence(options, says):
    with pytest.raises(CannotBootError) as error:
        HypercornEngine(Application(), access_log=False, spread=None, options=options)
    assert error.value.report.text.startswith(says)
