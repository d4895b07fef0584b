"""One script, two roles: every CPU echoes lines.  python examples/echo.py [port], then  nc 127.0.0.1 8000"""

import asyncio
import sys

import everycore

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()


async def main():
    if everycore.is_primary:
        async with everycore.Cluster() as cluster:
            cluster.on(everycore.Listening, lambda event: print("listening on {}:{}".format(*event.address)))
            for _ in range(everycore.cpu_count()):
                cluster.fork()
            async for event in cluster.events(everycore.Exited):
                if not event.voluntary:
                    cluster.fork()
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", PORT)  # the primary listens
        await server.serve_forever()


if __name__ == "__main__":
    everycore.run(main())
