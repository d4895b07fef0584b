"""Port 0 gives every worker the same free port; a port of its own is base + worker.id.

python examples/random_port.py [base]
"""

import asyncio
import sys

import everycore

BASE = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def main():
    if everycore.is_primary:
        async with everycore.Cluster() as cluster:
            for _ in range(2):
                cluster.fork()
            await asyncio.Event().wait()

    me = everycore.current_worker()

    async def tell(_reader, writer):
        writer.write(f"worker {me.id}\n".encode())
        writer.close()

    shared = await asyncio.start_server(tell, "127.0.0.1", 0)
    port = shared.sockets[0].getsockname()[1]
    own = await asyncio.start_server(tell, "127.0.0.1", (BASE or port) + me.id)
    print(f"worker {me.id}: shared port {port}, own port {own.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.gather(shared.serve_forever(), own.serve_forever())


if __name__ == "__main__":
    everycore.run(main())
