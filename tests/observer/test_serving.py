"""The server of the observer: what its clients may use, on a real socket of this process."""

import asyncio
import contextlib
import random
import socket
from typing import Any

import pytest

from everycore.core import control
from everycore.observer.app import ObserverApp
from everycore.observer.serving import Bounds, inherited, server_of
from tests.kit import observed, scaled
from tests.kit.mutations import http_request

pytestmark = pytest.mark.limit(30)


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(bounds, app=app):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = server_of(app, bounds)
        task = asyncio.ensure_future(server.serve(sockets=inherited([listener.dup().detach()])))
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


async def get(port, path="/"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
    async with asyncio.timeout(scaled(10)):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.slow
async def test_silent_clients_make_room_for_one_that_asks():
    async with serving(Bounds(most=4)) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert (await get(port)).endswith(b"ok")
        async with asyncio.timeout(scaled(10)):
            for reader, _ in silent[:16]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        for _, writer in silent:
            writer.close()


@pytest.mark.slow
async def test_no_connection_lasts():
    async with serving(Bounds(longest=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(scaled(10)):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert (await get(port)).endswith(b"ok")


@pytest.mark.slow
async def test_a_head_without_end_is_refused():
    async with serving(Bounds()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
            await writer.drain()
            async with asyncio.timeout(scaled(10)):
                assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert (await get(port)).endswith(b"ok")


# Whatever comes


@pytest.mark.slow
async def test_whatever_comes_the_next_one_is_answered():
    """Some clients read their answers, some do not, some end in the middle. A million: tests/cli."""
    count = 300
    chance = random.Random(count)
    served = ObserverApp(Told(), 1)
    async with serving(Bounds(most=16), served) as port:
        for number in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                writer.write(http_request(chance))
                if number % 3:
                    writer.write_eof()
                    async with asyncio.timeout(scaled(10)):
                        await reader.read()
            writer.transport.abort()
            if number % 100 == 0:
                assert (await get(port, "/ready")).endswith(b"ready: 1 of 2 workers are ready\n")
        assert (await get(port, "/ready")).startswith(b"HTTP/1.1 200 ")


class Told:
    """A primary that answers everything."""

    async def ask(self, request: Any, kind: Any) -> Any:
        told = observed.status(observed.worker(1))
        return observed.metrics(told) if isinstance(request, control.AskMetrics) else told
