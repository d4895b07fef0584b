"""What every Python server under measurement does with a connection; bench/node/server.js does the same.

reply: one HTTP reply to any request, then the connection is closed. hold: the worker's id, and the connection
stays. work: the client says for how many milliseconds the worker should block, gets its id, and the
connection is closed.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Reply(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(REPLY)
        self.transport.close()


class Hold(asyncio.Protocol):
    def __init__(self, me: int) -> None:
        self.me = me

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        cast("asyncio.WriteTransport", transport).write(b"%d\n" % self.me)


class Work(Reply):
    def __init__(self, me: int) -> None:
        self.me = me

    def data_received(self, data: bytes) -> None:
        time.sleep(int(data) / 1000)
        self.transport.write(b"%d\n" % self.me)
        self.transport.close()


def factory(mode: str, me: int) -> Callable[[], asyncio.BaseProtocol]:
    if mode == "reply":
        return Reply
    kind = {"hold": Hold, "work": Work}[mode]
    return lambda: kind(me)
