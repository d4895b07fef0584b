"""tail: latency where most requests are short and a few long, and each blocks its worker's loop meanwhile.

blocked: latency of all other requests while one worker sleeps for long.
"""

import heapq

from bench.contestants import NODE, Options, nodes, ours, started
from bench.figures import Column, interleave, quantile, table
from bench.load import Outcome, Request, open_loop, poisson
from bench.processes import need

WORKERS, RATE, FAST, SLOW, SLOW_SHARE = 8, 1000.0, 1, 200, 0.02
ASLEEP, OTHERS = 12.0, 500

_TAIL = (
    Column("p50", "p50 ms", ".1f"),
    Column("p99", "p99 ms", ".1f", ratio=True),
    Column("p99.9", "p99.9 ms", ".1f", ratio=True),
    Column("most", "most ms", ".0f"),
    Column("lost", "lost"),
    Column("behind", "client late ms", ".1f"),
)
_BLOCKED = (
    Column("p50", "p50 ms", ".1f"),
    Column("p99", "p99 ms", ".1f"),
    Column("most", "most ms", ".0f", ratio=True),
    Column("over", "over 250 ms"),
    Column("lost", "lost"),
    Column("behind", "client late ms", ".1f"),
)


def run(options: Options) -> str:
    need("node")
    rounds, count = options.times(3), 20_000 if options.full else 8_000
    with started(options, ours(options, "work", WORKERS) | nodes("work", WORKERS)) as servers:
        plans = [
            poisson(count, RATE, slow_share=SLOW_SHARE, fast=FAST, slow=SLOW, seed=seed)
            for seed in range(rounds)
        ]
        turn = dict.fromkeys(servers, 0)

        def measure(name: str) -> dict[str, float]:
            plan = plans[turn[name]]
            turn[name] += 1
            return _figures(open_loop(servers[name].port, plan, patience=30.0))

        samples = interleave(list(servers), rounds, measure, label="tail")
    samples = {"ideal (one queue)": [_figures(_ideal(plan)) for plan in plans]} | samples
    title = (
        f"tail: {WORKERS} workers, {RATE:.0f}/s Poisson, {1 - SLOW_SHARE:.0%} {FAST} ms, "
        f"{SLOW_SHARE:.0%} {SLOW} ms, loop blocked; {count} requests, {rounds} rounds"
    )
    return table(title, samples, _TAIL, baseline=NODE, notes=["The ideal is computed, from the same plans."])


def run_blocked(options: Options) -> str:
    need("node")
    rounds = options.times(1)
    rest = ASLEEP - 2.0
    plan = [Request(0.0, int(ASLEEP * 1000))]
    plan += [Request(0.5 + rest * number / OTHERS, 0) for number in range(OTHERS)]
    with started(options, ours(options, "work", 2) | nodes("work", 2)) as servers:

        def measure(name: str) -> dict[str, float]:
            outcome = open_loop(servers[name].port, plan, patience=ASLEEP + 5.0)
            return _figures(Outcome(outcome.latencies[1:], outcome.behind))

        samples = interleave(list(servers), rounds, measure, label="blocked")
    title = (
        f"blocked: 2 workers, one asleep for {ASLEEP:.0f} s; "
        f"{OTHERS} other requests in {rest:.0f} s, {rounds} rounds"
    )
    return table(title, samples, _BLOCKED, baseline=NODE)


def _figures(outcome: Outcome) -> dict[str, float]:
    ordered = sorted(latency * 1000 for latency in outcome.latencies if latency is not None)
    figures = {"lost": float(outcome.lost), "behind": outcome.behind * 1000}
    if ordered:
        figures["most"] = ordered[-1]
        figures["over"] = float(sum(latency > 250 for latency in ordered) + outcome.lost)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            figures[name] = quantile(ordered, share)
    return figures


def _ideal(plan: list[Request]) -> Outcome:
    """One queue: the next free worker takes the head, and nothing else takes any time."""
    free = [0.0] * WORKERS
    latencies: list[float | None] = []
    for request in plan:
        done = max(heapq.heappop(free), request.at) + request.milliseconds / 1000
        heapq.heappush(free, done)
        latencies.append(done - request.at)
    return Outcome(latencies, 0.0)
