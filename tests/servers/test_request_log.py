"""What is logged about a request: once, when its answer has ended, with its id and its duration."""

import asyncio
import contextlib
import contextvars

import pytest

from everycore.ops.access_log import Answered, request_id
from everycore.servers.request_log import RequestLog, new_id

START = {"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"b")]}


def chunk(body=b"", *, more=False):
    return {"type": "http.response.body", "body": body, "more_body": more}


class World:
    """An engine, a client, and what is logged."""

    def __init__(self, app):
        self.now = 100.0
        self.told: list[Answered] = []
        self.sent = []
        self.incoming = []
        self.log = RequestLog(app, self.told.append, clock=lambda: self.now, make_id=lambda: "made")

    async def serve(self, kind="http", headers=(), **more):
        self.scope = {
            "type": kind, "path": "/a b", "query_string": b"", "http_version": "1.1", "method": "GET",
            "client": ("10.0.0.1", 5), "headers": list(headers),
        } | more  # fmt: skip
        await self.log(self.scope, self.receive, self.send)

    async def receive(self):
        return self.incoming.pop(0)

    async def send(self, message):
        self.sent.append(message)


@pytest.fixture
def world():
    """A world whose application sends these messages."""

    def make(*messages, receives=0, raises=None, seconds=0.0):
        async def app(_scope, receive, send):
            for _ in range(receives):
                await receive()
            for message in messages:
                made.now += seconds
                await send(message)
            if raises is not None:
                raise raises

        made = World(app)
        return made

    return make


async def test_an_answer_is_told_when_it_has_ended(world):
    it = world(START, chunk(b"abc", more=True), chunk(b"de"), seconds=0.25)
    await it.serve(query_string=b'x="y z"\xff&q=%20')
    [told] = it.told
    assert (told.client, told.method, told.version, told.status) == ("10.0.0.1:5", "GET", "1.1", 201)
    assert told.target == "/a%20b?x=%22y%20z%22%FF&q=%20"
    assert (told.seconds, told.size, told.is_complete) == (0.75, 5, True)
    assert told.header("x-a", of_answer=True) == "b"
    assert it.sent == [START, chunk(b"abc", more=True), chunk(b"de")]


async def test_it_is_told_before_the_application_returns(world):
    it = world(START, chunk(b"x"), raises=ValueError("after"))
    with pytest.raises(ValueError, match="after"):
        await it.serve()
    [told] = it.told
    assert (told.status, told.is_complete) == (201, True)


@pytest.mark.parametrize("change", [dict.clear, lambda it: it.update(path="/\udcff", headers=[])])
async def test_an_application_that_changes_its_scope(change):
    async def app(scope, _receive, send):
        change(scope)
        await send(START)
        await send(chunk(b"x"))

    it = World(app)
    await it.serve()
    assert [(told.target, told.is_complete) for told in it.told] == [("/a%20b", True)]
    assert it.told[0].header("x-request-id") == "made"


@pytest.mark.parametrize(
    ("messages", "status", "complete"),
    [((), 500, True), ((START,), 201, False), ((START, chunk(b"x", more=True)), 201, False)],
    ids=["before", "head", "body"],
)
@pytest.mark.parametrize("raises", [None, ValueError(), asyncio.CancelledError()], ids=repr)
async def test_an_application_that_fails(world, messages, status, complete, raises):
    it = world(*messages, raises=raises)
    with contextlib.nullcontext() if raises is None else pytest.raises(type(raises)):
        await it.serve()
    assert [(told.status, told.is_complete) for told in it.told] == [(status, complete)]


@pytest.mark.parametrize(("messages", "status"), [((), 499), ((START,), 201)], ids=["before", "head"])
async def test_a_client_that_has_left(world, messages, status):
    it = world(*messages, receives=1)
    it.incoming = [{"type": "http.disconnect"}]
    await it.serve()
    assert [(told.status, told.is_complete) for told in it.told] == [(status, False)]


async def test_a_head_has_no_body(world):
    it = world(START, chunk(b"abc"))
    await it.serve(method="HEAD")
    assert [told.size for told in it.told] == [0]


@pytest.mark.parametrize("client", [None, ("x\ny", 0)])
async def test_a_client_without_an_address_and_one_that_a_proxy_has_named(world, client):
    it = world(START, chunk())
    await it.serve(client=client)
    assert [told.client for told in it.told] == ["" if client is None else r"x\ny:0"]


# Ids


@pytest.mark.parametrize(("sent", "found"), [([b"abc-1"], "abc-1"), ([], "made"), ([b"a b"], "made")])
async def test_the_application_has_the_id_in_its_headers_and_its_context(sent, found):
    seen = []

    async def app(scope, _receive, send):
        seen.extend([value for name, value in scope["headers"] if name == b"x-request-id"])
        seen.append(request_id.get())
        await send(START)
        await send(chunk())

    it = World(app)
    await asyncio.create_task(it.serve(headers=[(b"host", b"x"), *((b"x-request-id", one) for one in sent)]))
    assert seen == [found.encode(), found]
    assert [told.request_id for told in it.told] == [found]
    assert it.scope["headers"][0] == (b"host", b"x")


async def test_the_engine_begins_with_the_next_request_of_a_connection_in_the_context_of_none():
    """It does so within the last message of an answer; until then all its records are about this request."""
    seen = []

    class Engine(World):
        async def send(self, message):
            seen.append(request_id.get())

    async def app(_scope, _receive, send):
        for message in (START, chunk(b"a", more=True), chunk(b"b")):
            # Whatever context it sends in.
            await asyncio.create_task(send(message), context=contextvars.Context())
        seen.append(request_id.get())
        raise ValueError("after")

    async def served():
        with pytest.raises(ValueError, match="after"):
            await it.serve(headers=[(b"x-request-id", b"abc")])
        return request_id.get()

    it = Engine(app)
    assert await asyncio.create_task(served()) == "abc"
    assert seen == ["abc", "abc", None, "abc"]


def test_no_two_ids_are_the_same():
    assert len({new_id() for _ in range(1000)}) == 1000
    assert len(new_id()) == 32


# WebSockets and lifespans


@pytest.mark.parametrize(
    ("messages", "receives", "status", "complete"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.close"}], 0, 101, True),
        ([{"type": "websocket.accept"}], 1, 101, True),
        ([{"type": "websocket.accept"}], 0, 101, False),
        ([{"type": "websocket.close"}], 0, 403, True),
        ([], 1, 499, False),
        ([], 0, 500, True),
    ],
    ids=["closed", "left", "failed", "refused", "left before", "failed before"],
)
async def test_a_websocket_is_told_at_its_end(world, messages, receives, status, complete):
    it = world(*messages, receives=receives)
    it.incoming = [{"type": "websocket.disconnect"}]
    await it.serve("websocket")
    [told] = it.told
    assert (told.status, told.is_complete, told.is_websocket) == (status, complete, True)


async def test_a_lifespan_does_not_count_as_a_request(world):
    it = world({"type": "lifespan.startup.complete"})
    await it.log({"type": "lifespan"}, it.receive, it.send)
    assert it.told == []
    assert len(it.sent) == 1
