"""anyio: a TCP listener, on asyncio or trio."""

import os
import sys

import anyio
from answer import who


async def handle(stream):
    async with stream:
        line = await stream.receive()
        if line.startswith(b"slow"):
            os.write(1, b"slow\n")
            await anyio.sleep(1)
        await stream.send(who(stream.extra(anyio.abc.SocketAttribute.remote_address)[0]).encode())


async def main():
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=int(sys.argv[1]))
    await listener.serve(handle)


anyio.run(main, backend=sys.argv[2])
