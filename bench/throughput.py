"""throughput: one connection for each request, the most expensive case for a server that hands over."""

from bench.contestants import NODE, Options, bare, nodes, ours, started
from bench.figures import Column, interleave, table
from bench.load import apache_bench
from bench.processes import need

WORKERS, CONCURRENCY = 2, 64
COLUMNS = (
    Column("rate", "conn/s", ratio=True),
    Column("primary", "primary us/conn", ".1f", ratio=True),
    Column("workers", "workers us/conn", ".1f", ratio=True),
    Column("failed", "failed"),
)


def run(options: Options) -> str:
    need("node", "ab")
    rounds, count = options.times(5), 60_000 if options.full else 15_000
    programs = ours(options, "reply", WORKERS) | nodes("reply", WORKERS) | bare("reply", WORKERS)
    with started(options, programs) as servers:
        for server in servers.values():
            apache_bench(server.port, 2000, CONCURRENCY)  # warms up

        def measure(name: str) -> dict[str, float]:
            server = servers[name]
            before = server.cpu()
            rate, failed = apache_bench(server.port, count, CONCURRENCY)
            after = server.cpu()
            primary, workers = (
                (late - early) * 1e6 / count for early, late in zip(before, after, strict=True)
            )
            return {"rate": rate, "primary": primary, "workers": workers, "failed": failed}

        samples = interleave(list(servers), rounds, measure, label="throughput")
    title = f"throughput: ab -c {CONCURRENCY} -n {count}, {WORKERS} workers, {rounds} rounds"
    notes = [
        "`bare` servers have no primary: the ceiling for `shared` and `reuseport`, without their balance."
    ]
    return table(title, samples, COLUMNS, baseline=NODE, notes=notes)
