"""server.py POLICY LOOP MODE WORKERS: everycore. Prints its address and the workers' process ids."""

import asyncio
import json
import sys
from typing import Any

import everycore
from bench.programs.replies import factory

POLICY, LOOP, MODE, WORKERS = sys.argv[1:]


async def primary() -> None:
    async with everycore.Cluster(policy=POLICY, grace=1.0) as cluster:
        port = 0
        events = cluster.events(everycore.Listening, everycore.Ready, everycore.Exited)
        for _ in range(int(WORKERS)):
            cluster.fork()
        waiting = int(WORKERS)
        async for event in events:
            if isinstance(event, everycore.Listening):
                port = event.address[1]
            elif isinstance(event, everycore.Ready):
                waiting -= 1
            elif isinstance(event, everycore.Exited):
                raise SystemExit(f"a worker ended: {event.status}")
            if not waiting:
                break
        print(
            json.dumps({"port": port, "workers": [worker.pid for worker in cluster.workers.values()]}),
            flush=True,
        )
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, over.set)
        await over.wait()
        asyncio.get_running_loop().remove_reader(sys.stdin)


async def worker() -> None:
    me = everycore.current_worker().id
    server = await asyncio.get_running_loop().create_server(factory(MODE, me), "127.0.0.1", 0, backlog=2048)
    await server.serve_forever()


loop: Any = LOOP
everycore.run(
    primary() if everycore.is_primary else worker(), loop=loop if everycore.is_worker else "asyncio"
)
