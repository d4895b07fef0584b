"""Port 0 gives every worker the same free port; each worker also has a port of its own, base + worker.id.

python examples/random_port.py [base]; with base 0 a worker's own port is any free one
"""

import asyncio
import sys

import everycore

BASE = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


def tell_ports(message):
    print("worker {}: shared port {shared}, own port {own}".format(message.worker.id, **message.message))


async def main():
    if everycore.is_primary:
        async with everycore.Cluster() as cluster:
            cluster.on(everycore.Message, tell_ports)
            for _ in range(2):
                cluster.fork()
            await asyncio.Event().wait()

    me = everycore.current_worker()

    async def tell(_reader, writer):
        writer.write(f"worker {me.id}\n".encode())
        writer.close()

    shared = await asyncio.start_server(tell, "127.0.0.1", 0)
    port = shared.sockets[0].getsockname()[1]
    if BASE:
        own = await asyncio.start_server(tell, "127.0.0.1", BASE + me.id)
    else:  # in asyncio this asks for a socket that is not shared, so not from the primary
        own = await asyncio.start_server(tell, "127.0.0.1", 0, reuse_port=True)
    await me.send({"shared": port, "own": own.sockets[0].getsockname()[1]})
    await asyncio.gather(shared.serve_forever(), own.serve_forever())


if __name__ == "__main__":
    everycore.run(main())
