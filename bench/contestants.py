"""The contestants: everycore under each policy and loop, Node's cluster, and servers without a primary.

The library says which policies and loops it offers, so a new one takes part by itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench.processes import Server, node, python

NODE = "node rr"


@dataclass(frozen=True)
class Options:
    rounds: int | None = None
    full: bool = False
    loops: Sequence[str] = ()
    policies: Sequence[str] = ()
    contestants: Sequence[str] = field(default=())
    svg: str | None = None

    def times(self, usual: int) -> int:
        return self.rounds or usual

    def wants(self, name: str) -> bool:
        return not self.contestants or name == NODE or any(part in name for part in self.contestants)


def loops() -> list[str]:
    from everycore.settings import LOOPS

    return [name for name in map(str, LOOPS) if name != "auto"]


def policies() -> list[str]:
    """All but `sticky`: every connection of a loopback run has the same address."""
    from everycore.settings import POLICIES

    return [name for name in map(str, POLICIES) if name != "sticky"]


def ours(options: Options, mode: str, workers: int) -> dict[str, list[str]]:
    return {
        f"everycore {policy} {loop}": python("server", policy, loop, mode, workers)
        for policy in options.policies or policies()
        for loop in options.loops or loops()
    }


def nodes(mode: str, workers: int, *, also_none: bool = True) -> dict[str, list[str]]:
    scheduling = {NODE: "rr"} | ({"node none": "none"} if also_none else {})
    return {name: node("server.js", policy, mode, workers) for name, policy in scheduling.items()}


def bare(mode: str, workers: int) -> dict[str, list[str]]:
    """Upper bounds: these hand nothing over and balance nothing."""
    return {
        "bare shared asyncio": python("bare", "shared", "asyncio", mode, workers),
        "bare shared uvloop": python("bare", "shared", "uvloop", mode, workers),
        "bare reuseport uvloop": python("bare", "reuseport", "uvloop", mode, workers),
    }


@contextmanager
def started(
    options: Options, programs: dict[str, list[str]], *, seconds: float = 30.0
) -> Iterator[dict[str, Server]]:
    """All of them at once: idle ones cost nothing, and rounds can alternate between them."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Server(argv, seconds=seconds))
            for name, argv in programs.items()
            if options.wants(name)
        }
