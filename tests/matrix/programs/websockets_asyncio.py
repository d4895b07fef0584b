"""websockets: a server of asyncio."""

import asyncio
import sys

from answer import slow_async, who
from websockets.asyncio.server import serve


async def handle(websocket):
    async for message in websocket:
        client = websocket.remote_address[0]
        await websocket.send(await slow_async(client) if message == "slow" else who(client))


async def main():
    async with serve(handle, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


asyncio.run(main())
