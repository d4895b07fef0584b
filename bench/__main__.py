"""python -m bench [names...]: runs the benchmarks and prints their tables."""

import argparse
import os
import platform
import subprocess
import sys

from bench import (
    balance,
    channel,
    leaks,
    mold,
    observer,
    reloads,
    spread,
    startup,
    stops,
    tail,
    throughput,
    wsgi,
)
from bench.contestants import Options, loops, policies
from bench.load import raise_descriptor_limit
from bench.processes import Missing

BENCHES = {
    "balance": balance.run,
    "spread": spread.run,
    "channel": channel.run,
    "throughput": throughput.run,
    "startup": startup.run,
    "leaks": leaks.run,
    "tail": tail.run,
    "blocked": tail.run_blocked,
    "stops": stops.run,
    "reloads": reloads.run,
    "wsgi": wsgi.run,
    "observer": observer.run,
    "mold": mold.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="everycore beside Node.js' cluster.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(BENCHES)}; all without any")
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark, instead of its own number")
    parser.add_argument(
        "--full", action="store_true", help="longer runs: 100 000 connections for leaks, and so on"
    )
    parser.add_argument("--loop", action="append", choices=loops(), help="only this event loop (repeatable)")
    parser.add_argument(
        "--policy", action="append", help=f"only this policy: {', '.join(policies())} (repeatable)"
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only contestants with TEXT in their name"
    )
    parser.add_argument("--svg", metavar="FILE", help="spread: also draw it, into this file")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHES]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    options = Options(
        rounds=arguments.rounds,
        full=arguments.full,
        loops=tuple(arguments.loop or ()),
        policies=tuple(arguments.policy or ()),
        contestants=tuple(arguments.only or ()),
        svg=arguments.svg,
    )
    raise_descriptor_limit()
    print(surroundings(), flush=True)
    try:
        for name in arguments.names or BENCHES:
            print(BENCHES[name](options), flush=True)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def surroundings() -> str:
    """The circumstances without which a figure has no meaning."""
    try:
        node = subprocess.run(
            ["node", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except OSError:
        node = "none"
    processors = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, Node {node}, {platform.system()} {platform.release()}, "
        f"{processors} processors, load before the start {load:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
