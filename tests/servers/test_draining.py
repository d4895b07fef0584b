"""What becomes of the messages of applications while their worker leaves."""

import asyncio

import pytest

from everycore.servers.draining import Draining, DrainingApp
from everycore.servers.exchanges import EndedByLeavingError
from tests.kit import turn

END = {"type": "http.response.body", "body": b"", "more_body": False}
STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; x=y")],
}


def chunk(body, *, more=True):
    return {"type": "http.response.body", "body": body, "more_body": more}


def start(*headers):
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


STREAM = start((b"content-type", b"text/event-stream; x=y"))


class Client:
    """The engine and the client behind it: one request of an application that the test steers."""

    def __init__(self, draining, kind="http", method="GET", body=()):
        self.sent = []
        self.body = list(body)
        self.draining = draining
        self._orders: asyncio.Queue = asyncio.Queue()
        scope = {"type": kind, "method": method, "path": "/"}
        app = DrainingApp(self._application, draining)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _application(self, _scope, receive, send):
        while (order := await self._orders.get()) is not None:
            done, act = order
            try:
                done.set_result(await act(receive, send))
            except OSError as error:
                done.set_result(error)
                raise

    async def _receive(self):
        if not self.body:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"x", "more_body": self.body.pop(0)}

    async def _send(self, message):
        self.sent.append(message)

    async def send(self, *messages):
        """Send these messages of the application. Returns the outcome of the last one."""
        result = None
        for message in messages:
            result = await self._do(lambda _receive, send, message=message: send(message))
        return result

    async def receive(self):
        return await self._do(lambda receive, _send: receive())

    async def _do(self, act):
        done = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((done, act))
        return await done

    async def end(self):
        self._orders.put_nowait(None)
        await self.task


def headers(client):
    return dict(client.sent[0]["headers"])


class TestAnswers:
    async def test_as_they_are_before_the_worker_leaves(self):
        client = Client(Draining())
        messages = [start((b"x", b"y")), chunk(b"a"), END]
        await client.send(*messages)
        assert client.sent == messages
        await client.end()

    async def test_close_the_connection_once_it_does(self):
        client = Client(draining := Draining())
        draining.begin(0.0)
        await client.send(start((b"x", b"y"), (b"Connection", b"keep-alive")), END)
        assert client.sent == [start((b"x", b"y"), (b"connection", b"close")), END]
        await client.end()

    async def test_a_request_under_way_is_told_so_if_its_answer_has_not_begun(self):
        client = Client(draining := Draining())
        await turn()
        draining.begin(0.0)
        await client.send(start(), END)
        assert headers(client)[b"connection"] == b"close"
        await client.end()

    async def test_an_answer_that_has_begun_goes_on(self):
        client = Client(draining := Draining())
        await client.send(start())
        draining.begin(0.0)
        await client.send(chunk(b"a"), END)
        assert client.sent == [start(), chunk(b"a"), END]
        await client.end()

    async def test_a_connection_that_lives_on_is_not_told_to_close(self):
        answered = []
        draining = Draining(keeps=lambda send: True, answered=lambda: answered.append(len(client.sent)))
        client = Client(draining)
        draining.begin(0.0)
        await client.send(start(), END)
        assert client.sent == [start(), END]
        assert answered == [2]
        await client.end()


class TestABodyThatNobodyReads:
    async def test_is_read_to_its_end_before_the_connection_is_closed(self):
        client = Client(draining := Draining(), method="POST", body=[True, True, False])
        draining.begin(0.0)
        await client.send(start(), chunk(b"early", more=False))
        assert client.sent[1:] == [chunk(b"early"), END]
        assert client.body == []
        await client.end()

    async def test_but_one_that_was_read_is_not_waited_for(self):
        client = Client(draining := Draining(), method="POST", body=[True, False])
        draining.begin(0.0)
        await client.receive()
        await client.receive()
        await client.send(start(), chunk(b"late", more=False))
        assert client.sent[1:] == [chunk(b"late", more=False)]
        await client.end()

    async def test_nor_is_one_on_a_connection_that_lives_on(self):
        draining = Draining(keeps=lambda send: True)
        client = Client(draining, method="POST", body=[True, False])
        draining.begin(0.0)
        await client.send(start(), chunk(b"early", more=False))
        assert client.body == [True, False]
        await client.end()


class TestEventStreams:
    async def test_end_between_two_events(self):
        client = Client(draining := Draining())
        await client.send(STREAM, chunk(b"data: 1\n"))
        draining.begin(0.0)
        await passed()
        assert client.sent[-1] == chunk(b"data: 1\n")  # in the middle of one
        await client.send(chunk(b"\n"))
        assert client.sent[-2:] == [chunk(b"\n"), END]
        await client.end()

    async def test_end_at_once_where_nothing_is_under_way(self):
        client = Client(draining := Draining())
        await client.send(STREAM, chunk(b"data: 1\r\n\r\n"))
        draining.begin(0.0)
        await passed()
        assert client.sent[-1] == END
        await client.end()

    async def test_what_the_application_sends_on_is_a_silent_error(self):
        client = Client(draining := Draining())
        await client.send(STREAM)
        draining.begin(0.0)
        await passed()
        assert isinstance(await client.send(chunk(b"data: 2\n\n")), EndedByLeavingError)
        assert client.sent == [STREAM, END]
        await client.task  # the application let it through, and it is not reported

    async def test_their_ends_are_spread(self):
        asked = []

        def draw(seconds):
            asked.append(seconds)
            return 3600.0

        draining = Draining(draw=draw)
        clients = [Client(draining) for _ in range(2)]
        for client in clients:
            await client.send(STREAM)
        draining.begin(20.0)
        await passed()
        assert asked == [pytest.approx(20.0, abs=5.0)] * 2
        for client in clients:
            assert client.sent == [STREAM]
            await client.send(END)
            await client.end()

    async def test_one_that_begins_while_the_worker_leaves_ends_too(self):
        client = Client(draining := Draining())
        draining.begin(0.0)
        await client.send(STREAM)
        await passed()
        assert (b"connection", b"close") in client.sent[0]["headers"]
        assert client.sent[1:] == [END]
        await client.end()

    async def test_other_streams_go_on(self):
        client = Client(draining := Draining())
        head = start((b"content-type", b"application/octet-stream"))
        await client.send(head, chunk(b"half\n\n"))
        draining.begin(0.0)
        await passed()
        assert client.sent == [head, chunk(b"half\n\n")]
        await client.end()


class TestWebSockets:
    async def test_are_closed_with_1012(self):
        client = Client(draining := Draining(), kind="websocket")
        await client.send({"type": "websocket.accept"})
        draining.begin(0.0)
        await passed()
        assert [message.get("code") for message in client.sent] == [None, 1012]
        await client.send({"type": "websocket.close"})  # what it would do when it learns of the end
        assert len(client.sent) == 2
        assert isinstance(await client.send({"type": "websocket.send", "text": "x"}), EndedByLeavingError)
        await client.task

    async def test_one_that_is_not_accepted_yet_is_closed_after_that(self):
        client = Client(draining := Draining(), kind="websocket")
        draining.begin(0.0)
        await passed()
        assert client.sent == []
        await client.send({"type": "websocket.accept"})
        await passed()
        assert client.sent[-1]["code"] == 1012
        await client.end()

    async def test_one_that_the_application_has_closed_is_left_alone(self):
        client = Client(draining := Draining(), kind="websocket")
        await client.send({"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000})
        draining.begin(0.0)
        await passed()
        assert client.sent[-1]["code"] == 1000
        await client.end()


async def test_an_error_of_the_application_stays_one():
    client = Client(draining := Draining())
    await client.send(STREAM)
    draining.begin(0.0)
    await passed()

    async def fail(_receive, _send):
        raise ConnectionError("its own")

    await client._do(fail)
    with pytest.raises(ConnectionError, match="its own"):
        await client.task


async def passed():
    """Wait until a timer of no time has fired, and its consequences have run."""
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, fired.set)
    await fired.wait()
    await turn(4)
