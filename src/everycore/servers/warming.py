"""A server that runs in the mold for a moment, so that a request's imports and objects are made only once.

Without it each worker makes its own, which takes 3 MB of 8, and half of the time until the worker is ready.
The application is not called. Invariant: the server leaves neither a socket nor a loop behind, and an error
in it stops no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, Final

from everycore import entry
from everycore.ops.job import Job
from everycore.servers.asgi import Receive, Scope, Send
from everycore.servers.assembly import engine_of
from everycore.servers.exits import LoneExit
from everycore.servers.lifespan import Lifespan
from everycore.settings import has_uvloop

log = logging.getLogger("everycore.servers")

#: A typical request, and how long its answer may take, in seconds.
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_PATIENCE: Final = 5.0


def warm(job: Job) -> None:
    """Serve one request that this module makes, by an application of this module."""
    kind = job.loop
    if kind == "auto":
        kind = "uvloop" if has_uvloop() else "asyncio"
    try:
        loop = entry.new_event_loop(kind)
        try:
            loop.run_until_complete(asyncio.wait_for(_serve(job), _PATIENCE))
        finally:
            loop.close()
            asyncio.set_event_loop(None)
    except Exception:
        log.debug("the mold could not serve a request of its own", exc_info=True)


class _Exit(LoneExit):
    """An exit that this module asks for by setting `done`."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.done = asyncio.Event()

    async def asked(self) -> None:
        """As `Exit.asked`."""
        await self.done.wait()
        self.spares_idle = False
        self.deadline = asyncio.get_running_loop().time() + 1.0


async def _serve(job: Job) -> None:
    leave = _Exit()
    engine = engine_of(job, Lifespan(_answer, "off", lambda: None))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind("")  # the kernel chooses a name that no other process knows (unix(7), autobind)
        sock.listen(1)
        sock.setblocking(False)
        serving = asyncio.Event()
        task = asyncio.ensure_future(engine.serve([sock], serving.set, leave))
        waiting = asyncio.ensure_future(serving.wait())
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.is_set() and job.scheme == "http":
            await _ask(sock.getsockname())
        leave.done.set()
        await task


async def _ask(address: Any) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, _REQUEST)
        while await loop.sock_recv(client, 4096):
            pass


async def _answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
