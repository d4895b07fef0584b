"""balance: how evenly the workers share kept-alive connections, opened one by one and in bursts."""

import time

from bench.contestants import NODE, Options, nodes, ours, started
from bench.figures import Column, interleave, table
from bench.load import hold
from bench.processes import need

CONNECTIONS, WORKERS, BURSTS = 400, 8, (1, 16, 64)
SETTLE = 0.2  # until the servers have noticed that the last run's connections closed


def run(options: Options) -> str:
    need("node")
    rounds = options.times(5)
    with started(options, ours(options, "hold", WORKERS) | nodes("hold", WORKERS)) as servers:

        def measure(name: str) -> dict[str, float]:
            figures = {}
            for burst in BURSTS:
                shares = hold(servers[name].port, CONNECTIONS, burst)
                figures[f"burst{burst}"] = max(shares.values()) * WORKERS / CONNECTIONS
                time.sleep(SETTLE)
            return figures

        samples = interleave(list(servers), rounds, measure, label="balance")
    columns = [
        Column(f"burst{burst}", "one by one" if burst == 1 else f"bursts of {burst}", ".2f")
        for burst in BURSTS
    ]
    title = (
        f"balance: {CONNECTIONS} kept-alive connections over {WORKERS} workers, "
        f"largest share / mean, {rounds} rounds"
    )
    return table(title, samples, columns, baseline=NODE)
