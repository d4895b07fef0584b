"""A WSGI application and a client that reads, leaves, or is cut off. Its thread is free in the end."""

import asyncio
import io
import sys
from wsgiref.validate import validator

import pytest

from everycore.servers.wsgi import READ_AHEAD, ClientDisconnectedError, WsgiApp

GONE = {"type": "http.disconnect"}
PLAIN = [("Content-Type", "text/plain")]


def part(body, *, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


class Client:
    """The engine and the client behind it: one request."""

    def __init__(self, wsgi, *messages):
        self.sent = []
        self.received = 0
        self.fails_with = None
        self.arriving: asyncio.Queue = asyncio.Queue()
        for message in messages:
            self.arriving.put_nowait(message)
        self._grew = asyncio.Event()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "headers": [(b"content-type", b"text/plain")],
            "server": ("localhost", 80),
        }
        self.task = asyncio.ensure_future(wsgi(scope, self._receive, self._send))

    async def _receive(self):
        message = await self.arriving.get()
        self.received += 1
        return message

    async def _send(self, message):
        if self.fails_with is not None:
            raise self.fails_with
        self.sent.append(message)
        self._grew.set()

    async def has_had(self, count):
        """Wait until the client has had `count` messages."""
        while len(self.sent) < count:
            self._grew.clear()
            await self._grew.wait()

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def body(self):
        return b"".join(message["body"] for message in self.sent[1:])


@pytest.fixture
def request_of():
    """A request of an application with one thread, which must be free at the end."""
    made = []

    def request_it(app, *messages):
        made.append(WsgiApp(app, threads=1))
        return Client(made[-1], *(messages or (part(b"", more=False),)))

    yield request_it
    for wsgi in made:
        wsgi.close()


async def threads_have_ended():
    """Wait for all threads, even those of cancelled requests."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


class Endless:
    """An application whose answer has no end."""

    def __init__(self):
        self.closed = 0

    def __call__(self, environ, start_response):
        start_response("200 OK", PLAIN)
        return self

    def __iter__(self):
        while True:
            yield b"tick"

    def close(self):
        self.closed += 1


# The end of an iterable


async def test_it_is_closed_when_the_client_has_gone(request_of):
    app = Endless()
    client = request_of(app)
    await client.has_had(4)
    client.arriving.put_nowait(GONE)
    await client.task
    assert app.closed == 1


async def test_it_is_closed_when_a_client_goes_that_has_not_sent_its_whole_body(request_of):
    app = Endless()
    client = request_of(app, part(b"some"))
    await client.has_had(4)
    client.arriving.put_nowait(GONE)
    await client.task
    assert app.closed == 1


async def test_it_is_closed_when_the_worker_ends_the_stream(request_of):
    app = Endless()
    client = request_of(app)
    await client.has_had(4)
    client.fails_with = OSError("this worker leaves")
    await client.task
    assert app.closed == 1


async def test_it_is_closed_when_the_engine_refuses_what_it_yields_and_that_is_told(request_of):
    app = Endless()
    client = request_of(app)
    await client.has_had(4)
    client.fails_with = RuntimeError("longer than its Content-Length")
    with pytest.raises(RuntimeError, match="Content-Length"):
        await client.task
    assert app.closed == 1


async def test_it_is_closed_when_the_request_is_cancelled(request_of):
    app = Endless()
    client = request_of(app)
    await client.has_had(4)
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    await threads_have_ended()
    assert app.closed == 1


async def test_write_tells_that_the_client_has_gone(request_of):
    told = []

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        try:
            while True:
                write(b"tick")
        except ConnectionError as error:
            told.append(error)
            raise

    client = request_of(app)
    await client.has_had(4)
    client.arriving.put_nowait(GONE)
    await client.task
    assert isinstance(told[0], ClientDisconnectedError)


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_it_is_closed_once_when_it_ends_by_itself(request_of, error):
    class App(Endless):
        def __iter__(self):
            yield b"one"
            if error is not None:
                raise error

    app = App()
    client = request_of(app)
    assert list(await asyncio.gather(client.task, return_exceptions=True)) == [error]
    assert app.closed == 1


# The body of a request


def echo(environ, start_response):
    start_response("200 OK", PLAIN)
    return [environ["wsgi.input"].read()]


async def test_a_client_that_leaves_in_its_body_is_not_the_end_of_the_body(request_of):
    read = []

    def app(environ, start_response):
        try:
            read.append(environ["wsgi.input"].read())
        except OSError as error:
            read.append(type(error))
            raise

    client = request_of(app, part(b"half"), GONE)
    await client.task
    assert read == [ClientDisconnectedError]
    assert client.sent == []


async def test_a_thread_that_waits_for_a_body_is_freed_when_its_request_is_cancelled(request_of):
    loop, waits, told = asyncio.get_running_loop(), asyncio.Event(), []

    def app(environ, start_response):
        loop.call_soon_threadsafe(waits.set)
        try:
            environ["wsgi.input"].read()
        except ClientDisconnectedError as error:
            told.append(error)
            raise

    client = request_of(app, part(b"half"))
    await waits.wait()
    client.task.cancel()
    await threads_have_ended()
    assert len(told) == 1


async def test_an_error_in_a_request_that_was_cancelled_is_logged(request_of, caplog):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            while True:
                yield b"tick"
        finally:
            raise ValueError("broken")

    client = request_of(app)
    await client.has_had(4)
    client.task.cancel()
    await threads_have_ended()
    assert "cut off" in caplog.text
    assert "ValueError: broken" in caplog.text


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(3),
        lambda file: file.readline(),
        lambda file: file.readlines(),
        lambda file: file.readlines(2),
        lambda file: list(iter(lambda: file.readline(2), b"")),
        lambda file: list(file),
        lambda file: [file.read(2), file.readline(), file.read(100), file.read(1)],
    ],
    ids=["read", "readline", "readlines", "readlines of a size", "readline of a size", "iterate", "mixed"],
)
@pytest.mark.parametrize("parts", [(b"",), (b"ab\ncd", b"ef\n", b"", b"\ngh"), (b"ab\n",)])
async def test_the_input_reads_as_a_file(request_of, read, parts):
    results = []

    def app(environ, start_response):
        results.append(read(environ["wsgi.input"]))
        start_response("200 OK", PLAIN)
        return []

    await request_of(validator(app), *map(part, parts), part(b"", more=False)).task
    assert results == [read(io.BytesIO(b"".join(parts)))]


async def test_what_is_read_ahead_of_the_application_is_limited_and_not_lost(request_of):
    total = 20 * READ_AHEAD

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for _ in range(100):
            yield b"."
        yield b"%d" % client.received
        size = 0
        while data := environ["wsgi.input"].read(1000):
            size += len(data)
        yield b" %d" % size

    parts = [part(bytes(READ_AHEAD)) for _ in range(20)]
    client = request_of(app, *parts, part(b"", more=False))
    await client.task
    received, size = client.body.lstrip(b".").split()
    assert int(received) <= 1
    assert int(size) == total


async def test_what_has_come_can_be_read_while_the_rest_is_awaited(request_of):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for _ in range(4):
            yield b"."
        yield environ["wsgi.input"].read(5)

    client = request_of(app, part(b"first"))
    await client.task
    assert client.body == b"....first"


async def test_the_application_is_not_ahead_of_its_client_by_more_than_the_queue(request_of):
    leads = []

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for number in range(1000):
            leads.append(number - len(client.sent))
            yield bytes(1000)

    client = request_of(app)
    await client.task
    assert len(client.body) == 1_000_000
    assert max(leads) <= 12


# The head


async def test_an_error_takes_the_place_of_a_head_that_was_not_sent(request_of):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            raise ValueError("broken")
        except ValueError:
            start_response("500 Internal Server Error", PLAIN, sys.exc_info())
        return [b"", b"sorry"]

    client = request_of(validator(app))
    await client.task
    assert (client.status, client.body) == (500, b"sorry")


async def test_an_error_behind_the_head_is_raised_again(request_of):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise ValueError("broken")
        except ValueError:
            start_response("500 Internal Server Error", PLAIN, sys.exc_info())

    client = request_of(validator(app))
    with pytest.raises(ValueError, match="broken"):
        await client.task
    assert client.status == 200


async def test_a_head_without_a_body(request_of):
    def app(environ, start_response):
        start_response("304 Not Modified", [])
        return []

    client = request_of(app)
    await client.task
    assert (client.status, client.body) == (304, b"")


@pytest.mark.parametrize(("calls", "words"), [(0, "has not called"), (2, "twice")])
async def test_start_response_is_called_once(request_of, calls, words):
    def app(environ, start_response):
        for _ in range(calls):
            start_response("200 OK", PLAIN)
        return [b"body"]

    client = request_of(app)
    with pytest.raises(RuntimeError, match=words):
        await client.task
    assert client.sent == []


async def test_one_request_after_the_other_has_its_own(request_of):
    wsgi = WsgiApp(validator(lambda e, s: echo_valid(e, s)), threads=2)
    clients = [Client(wsgi, part(b"%d" % number, more=False)) for number in range(20)]
    await asyncio.gather(*(client.task for client in clients))
    wsgi.close()
    assert [client.body for client in clients] == [b"%d" % number for number in range(20)]


def echo_valid(environ, start_response):
    start_response("200 OK", PLAIN)
    return [environ["wsgi.input"].read(100)]
