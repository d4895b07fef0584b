"""online.py WORKERS: milliseconds from the first fork until every worker is online."""

import json
import sys
import time

import everycore


async def main() -> None:
    if everycore.is_worker:
        await everycore.current_worker().wait_shutdown()
        return
    workers = int(sys.argv[1])
    async with everycore.Cluster(grace=1.0) as cluster:
        online = cluster.events(everycore.Online)
        start = time.perf_counter()
        for _ in range(workers):
            cluster.fork()
        for _ in range(workers):
            await anext(online)
        print(json.dumps({"ms": (time.perf_counter() - start) * 1000}), flush=True)


if __name__ == "__main__":
    everycore.run(main(), loop="asyncio")
