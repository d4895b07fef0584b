"""An application of medium size: it imports a part of the standard library and has a database connection.

BENCH_DATABASE: the database's port. When the application is told to end it prints a line with the time.
"""

import asyncio
import concurrent.futures.process
import decimal
import email.mime.multipart
import http.server
import json
import multiprocessing.pool
import os
import sqlite3
import sys
import time
import unittest.mock
import urllib.request
import xml.dom.minidom
from typing import Any

IMPORTED = (concurrent.futures, decimal, email, http, multiprocessing, sqlite3, unittest, urllib, xml)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def live(receive: Any, send: Any) -> None:
    await receive()
    database = await asyncio.open_connection("127.0.0.1", int(os.environ["BENCH_DATABASE"]))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say_end()
    del database
    await send({"type": "lifespan.shutdown.complete"})


async def by_uvicorn(port: int) -> None:
    """The same as a program that ends by signals."""
    import uvicorn

    await uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False)).serve()


async def plain(port: int) -> None:
    """A server that does not handle signals and never closes its connection to the database."""
    database = await asyncio.open_connection("127.0.0.1", int(os.environ["BENCH_DATABASE"]))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"%d" % os.getpid()
        writer.write(b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        try:
            await server.serve_forever()
        finally:
            say_end()
    del database


def say_end() -> None:
    os.write(1, json.dumps({"shut_down": time.monotonic()}).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run((plain if "plain" in sys.argv else by_uvicorn)(int(os.environ["BENCH_PORT"])))
