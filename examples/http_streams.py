"""An HTTP/1.1 server made of asyncio streams alone.  python examples/http_streams.py [port]"""

import asyncio
import os
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def handle(reader, writer):
    # One connection may carry many requests: it stays with the worker that has it.
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split("\r\n", 1)[0].split(" ")
            body = f"{method} {path} by worker {everycore.current_worker().id}, process {os.getpid()}\n"
            keep = "connection: close" not in head.lower()
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n{body}".encode("latin-1")
            )
            await writer.drain()
            if not keep:
                return
    except asyncio.IncompleteReadError:
        pass  # the client has finished
    finally:
        writer.close()


async def main():
    if everycore.is_worker:
        server = await asyncio.start_server(handle, "127.0.0.1", PORT)
        await server.serve_forever()
        return
    async with everycore.Cluster() as cluster:
        for _ in range(2):
            cluster.fork()
        async for event in cluster.events(everycore.Listening):
            print("worker {} listens on http://{}:{}".format(event.worker.id, *event.address), flush=True)


if __name__ == "__main__":
    everycore.run(main())
