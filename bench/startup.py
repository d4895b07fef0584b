"""startup: the cost of the import, and the time until eight workers are online."""

import subprocess
import sys
import time
from collections.abc import Sequence

from bench.contestants import Options
from bench.figures import Column, Samples, interleave, ratio, table
from bench.processes import environment, need, node, python, run_json

WORKERS = 8
_CLOCKED = """
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start, "click" in sys.modules)
"""
_IMPORTS = {"import everycore": "import everycore", "import asyncio, msgspec": "import asyncio, msgspec"}
_BARE = f"{WORKERS} bare python -c 'import asyncio'"
_OURS, _NODES, _BARE_NODE = (
    f"everycore, {WORKERS} workers online",
    f"node, {WORKERS} workers online",
    f"{WORKERS} bare node -e 0",
)


def run(options: Options) -> str:
    need("node")
    imports, baseline = _imports(options.times(15)), "import asyncio, msgspec"
    online = interleave([_OURS, _BARE, _NODES, _BARE_NODE], options.times(7), _start, label="startup")
    ours, theirs = ratio(online, _OURS, _BARE, "ms"), ratio(online, _NODES, _BARE_NODE, "ms")
    notes = [
        f"Workers online in units of as many bare interpreters: everycore {ours:.2f}, node {theirs:.2f}."
    ]
    return "\n".join(
        [
            table(
                "startup: import, in a fresh interpreter",
                imports,
                [Column("ms", "ms", ".1f", ratio=True), Column("click", "imports click")],
                baseline=baseline,
            ),
            table(
                "startup: from the first fork to the last one online",
                online,
                [Column("ms", "ms")],
                notes=notes,
            ),
        ]
    )


def _imports(rounds: int) -> Samples:
    def measure(name: str) -> dict[str, float]:
        program = _CLOCKED.format(statement=_IMPORTS[name])
        argv = [sys.executable, "-c", program]
        seconds, has_click = subprocess.run(
            argv, env=environment(), capture_output=True, text=True, check=True, timeout=30
        ).stdout.split()
        return {"ms": float(seconds) * 1000, "click": float(has_click == "True")}

    for name in _IMPORTS:
        measure(name)  # warms up: byte code and the page cache
    return interleave(list(_IMPORTS), rounds, measure, label="startup")


def _start(name: str) -> dict[str, float]:
    match name:
        case _ if name == _OURS:
            return {"ms": run_json(python("online", WORKERS))["ms"]}
        case _ if name == _NODES:
            return {"ms": run_json(node("online.js", WORKERS))["ms"]}
        case _ if name == _BARE:
            return {"ms": _bare([sys.executable, "-c", "import asyncio"])}
        case _:
            return {"ms": _bare(["node", "-e", "0"])}


def _bare(argv: Sequence[str]) -> float:
    start = time.perf_counter()
    processes = [subprocess.Popen(argv, env=environment()) for _ in range(WORKERS)]
    for process in processes:
        process.wait(30)
    return (time.perf_counter() - start) * 1000
