"""Serves a WSGI application through a2wsgi, and keeps PEP 3333's promises where that bridge does not.

Each request runs in a thread of the bridge's pool. An `_Exchange` stands between that thread and the loop.
Invariant: an iterable is closed once. Its thread is free at the latest at the first chunk that it yields
after its client has gone, after everycore has ended its answer, or after its request was cancelled.

Facts (a2wsgi 1.10) and consequences:

- The bridge never looks for `http.disconnect`.
- Its threads wait for a queue that the event loop empties, and wait for ever if `send` raises or the request
  is cancelled. So the `send` here never raises, and the bridge is never cancelled.
- Its input loses lines (`readline(4)` of a body that has not come is b""), and takes a client that has left
  for the end of the body. So this module has an input of its own.
- It sends the head at once, and can't replace it by that of an error. So the head is kept until the first
  byte of the body.
- It copies the context of a request into the thread.
- Memory is limited by the bridge's queue of 10 chunks, and by the engine, which reads no more than it is
  asked for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import io
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from everycore.errors import is_caused_by
from everycore.servers.asgi import Receive, Scope, Send
from everycore.servers.loading import CannotBootError

log = logging.getLogger("everycore.servers")

#: How much of a body is read before the application asks for it, in bytes. The message that the client has
#: gone comes only after the body.
READ_AHEAD: Final = 64 * 1024
#: How much of a body an application's input buffers, in bytes.
_BUFFER: Final = 64 * 1024

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_exchange: contextvars.ContextVar[_Exchange] = contextvars.ContextVar("everycore_wsgi_exchange")


class ClientDisconnectedError(ConnectionError):
    """The application reads from or writes to a client that has gone, or whose answer was ended here."""

    def __init__(self) -> None:
        super().__init__("the client has disconnected, or this worker has ended the answer")


class WsgiApp:
    """A WSGI application as an ASGI application. Its requests run in `threads` threads."""

    def __init__(self, app: Wsgi, threads: int) -> None:
        try:
            from a2wsgi import WSGIMiddleware
        except ImportError:
            raise CannotBootError(
                "a WSGI application needs a2wsgi: pip install 'everycore[standard]'"
            ) from None
        called = functools.partial(_call, app)
        self._bridge: Any = WSGIMiddleware(called, workers=threads)
        self._threads = threads
        #: The number of requests under way, including those that wait for a thread.
        self._open = 0
        #: A count that rises when a request reads, sends or ends, and its value at the last `is_stuck`.
        self._moves = _Moves()
        self._moves_before = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._bridge(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        exchange = _Exchange(loop, receive, send, self._moves)
        context = contextvars.copy_context()
        context.run(_exchange.set, exchange)
        work = loop.create_task(self._bridge(scope, receive, exchange.send), context=context)
        self._open += 1
        try:
            await asyncio.wait((work,))  # `wait` does not cancel the task
            work.result()
        except asyncio.CancelledError:
            work.add_done_callback(_ended_late)
            raise
        except Exception as error:
            if not (exchange.is_over and is_caused_by(error, ClientDisconnectedError)):
                raise
        finally:
            self._open -= 1
            exchange.end()
        if exchange.error is not None:
            raise exchange.error

    def is_stuck(self) -> bool:
        """Whether a request waits for a thread, and none has made progress since the last call."""
        before, self._moves_before = self._moves_before, self._moves.count
        return self._open > self._threads and before == self._moves.count

    def close(self) -> None:
        """Wait for the threads to end."""
        self._bridge.executor.shutdown()


class _Moves:
    """The progress of an application's requests, as a rising number."""

    def __init__(self) -> None:
        self.count = 0


def _ended_late(work: asyncio.Task[None]) -> None:
    """Log the error of a request that was cancelled before its thread ended: nothing else would report it."""
    error = None if work.cancelled() else work.exception()
    if error is not None and not is_caused_by(error, ClientDisconnectedError):
        log.error("the application failed in a request that had been cut off", exc_info=error)


class _Exchange:
    """A request and its answer, on the loop's side. A thread only calls `read` and looks at `is_over`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, send: Send, moves: _Moves) -> None:
        #: Whether the answer is not read any more.
        self.is_over = False
        #: The error of `send`, which is a mistake of the application's, such as too long a body.
        self.error: Exception | None = None
        self._loop = loop
        self._receive = receive
        self._send = send
        self._moves = moves
        self._is_streaming = False
        self._receiving = asyncio.Lock()
        self._ahead: deque[Any] = deque()
        self._watching: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Any] | None = None

    def read(self) -> Any:
        """Return the next message of the request's body, in a thread. Raises ClientDisconnectedError."""
        reading = self._next()
        try:
            future = asyncio.run_coroutine_threadsafe(reading, self._loop)
        except RuntimeError:  # the loop is closed
            reading.close()
            raise ClientDisconnectedError from None
        try:
            return future.result()
        except concurrent.futures.CancelledError:  # by `end`
            raise ClientDisconnectedError from None

    async def send(self, message: Any) -> None:
        """As the engine's `send`, but raise nothing: an error ends the exchange."""
        self._moves.count += 1
        if self.is_over:
            return
        is_chunk = message.get("more_body", False)
        if not is_chunk and message["type"] == "http.response.body":
            self._stop_watching()  # the engine handles the rest of the request's body
        try:
            await self._send(message)
        except OSError:  # the client has gone (ASGI 2.4), or the worker has ended the stream
            self.is_over = True
        except Exception as error:
            self.error = error
            self.is_over = True
        if is_chunk and self._is_streaming:
            self._watch()
        self._is_streaming = is_chunk  # an answer of one chunk needs no watch

    def end(self) -> None:
        """The engine's request is over, whether or not its thread has ended."""
        self.is_over = True
        self._moves.count += 1
        self._stop_watching()
        if self._reading is not None:
            self._reading.cancel()

    async def _next(self) -> Any:
        self._reading = asyncio.current_task()
        try:
            if not self._ahead:  # otherwise don't wait: the watch may hold the lock until the client goes
                async with self._receiving:
                    if not self._ahead and not self.is_over:
                        await self._fetch()
        finally:
            self._reading = None
        if not self._ahead:
            raise ClientDisconnectedError
        return self._ahead.popleft()

    async def _fetch(self) -> None:
        message = await self._receive()
        self._moves.count += 1
        if message["type"] == "http.disconnect":
            self.is_over = True
        else:
            self._ahead.append(message)

    def _watch(self) -> None:
        if not self.is_over and (self._watching is None or self._watching.done()):
            self._watching = self._loop.create_task(self._look_for_the_end())

    async def _look_for_the_end(self) -> None:
        while not self.is_over and sum(len(part.get("body", b"")) for part in self._ahead) < READ_AHEAD:
            async with self._receiving:
                await self._fetch()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()


def _call(app: Wsgi, environ: dict[str, Any], start_response: Callable[..., Any]) -> _Answer:
    """Call the application, in a thread of the bridge's."""
    exchange = _exchange.get()
    environ["wsgi.errors"] = sys.stderr  # the bridge sets it to stdout, which belongs to the user
    environ["wsgi.input"] = io.BufferedReader(_Input(exchange), _BUFFER)
    # The input ends where the body does, even without a Content-Length (chunked).
    environ["wsgi.input_terminated"] = True
    head = _Head(exchange, start_response)
    return _Answer(app(environ, head.start_response), head, exchange)


class _Input(io.RawIOBase):
    """The body of a request. Reading raises ClientDisconnectedError if the client has left before its end."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._part = memoryview(b"")
        self._has_more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._part and self._has_more:
            message = self._exchange.read()
            self._part = memoryview(message.get("body", b""))
            self._has_more = message.get("more_body", False)
        size = min(len(buffer), len(self._part))
        buffer[:size] = self._part[:size]
        self._part = self._part[size:]
        return size


class _Head:
    """The status and the headers, which an application may change until the first byte of the body."""

    def __init__(self, exchange: _Exchange, start: Callable[..., Any]) -> None:
        self._exchange = exchange
        self._start = start
        self._head: tuple[Any, ...] | None = None
        self._write: Callable[[bytes], Any] | None = None

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """As PEP 3333 specifies it."""
        if exc_info is not None:
            try:
                if self._write is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # avoid a reference cycle with the traceback
        elif self._head is not None:
            raise RuntimeError("the application has called start_response twice, without exc_info")
        self._head = (status, headers)
        return self._write_data

    def send(self) -> Callable[[bytes], Any]:
        """Send the head, if it was not sent. Returns the function that writes a part of the body."""
        if self._write is None:
            if self._head is None:
                raise RuntimeError("the application has not called start_response")
            self._write = self._start(*self._head)
        return self._write

    def _write_data(self, data: bytes) -> None:
        if self._exchange.is_over:
            raise ClientDisconnectedError
        if data:
            self.send()(data)


class _Answer:
    """The iterable that the application returned, as long as the answer is read."""

    def __init__(self, iterable: Iterable[bytes], head: _Head, exchange: _Exchange) -> None:
        self._iterable = iterable
        self._head = head
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._iterable:
            if self._exchange.is_over:
                return
            if chunk:
                self._head.send()
                yield chunk
        if not self._exchange.is_over:
            self._head.send()

    def close(self) -> None:
        """Close the application's iterable, as PEP 3333 demands, however it ended."""
        close = getattr(self._iterable, "close", None)
        if close is not None:
            close()
