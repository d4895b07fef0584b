"""leaks: descriptors and memory before and after many connections, counted from outside."""

import time

from bench.contestants import Options, nodes, ours, started
from bench.figures import Column, merge, progress, table
from bench.load import apache_bench
from bench.processes import Server, descriptors, need, resident

WORKERS, CONCURRENCY = 2, 64
SETTLE = 1.0  # until the last connections have closed and the collector has run
COLUMNS = (
    Column("primary", "primary fds +"),
    Column("workers", "workers fds +"),
    Column("primary_memory", "primary KiB +"),
    Column("workers_memory", "workers KiB +"),
    Column("bytes", "bytes/conn", ".2f"),
    Column("failed", "failed"),
)


def run(options: Options) -> str:
    need("node", "ab")
    count = 100_000 if options.full else 20_000
    samples: dict[str, dict[str, float]] = {}
    programs = ours(options, "reply", WORKERS) | nodes("reply", WORKERS, also_none=False)
    with started(options, programs) as servers:
        for name, server in servers.items():
            progress(f"leaks: {name}")
            apache_bench(server.port, 5000, CONCURRENCY)
            before = _count(server)
            failed = sum(apache_bench(server.port, count // 5, CONCURRENCY)[1] for _ in range(5))
            after = _count(server)
            grown = {key: float(after[key] - before[key]) for key in before}
            memory = grown["primary_memory"] + grown["workers_memory"]
            samples[name] = grown | {"bytes": memory * 1024 / count, "failed": failed}
    progress("")
    title = f"leaks: growth over {count} connections after 5000 others, {WORKERS} workers"
    return table(title, merge(samples), COLUMNS)


def _count(server: Server) -> dict[str, int]:
    time.sleep(SETTLE)
    return {
        "primary": descriptors(server.primary),
        "workers": sum(map(descriptors, server.workers)),
        "primary_memory": resident(server.primary),
        "workers_memory": sum(map(resident, server.workers)),
    }
