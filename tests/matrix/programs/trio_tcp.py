"""trio: "An echo server"."""

import os
import sys

import trio
from answer import who


async def handle(stream):
    line = await stream.receive_some()
    if line.startswith(b"slow"):
        os.write(1, b"slow\n")
        await trio.sleep(1)
    await stream.send_all(who(stream.socket.getpeername()[0]).encode())


trio.run(trio.serve_tcp, handle, int(sys.argv[1]))
