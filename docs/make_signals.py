"""Draws the tables of reference/signals.md from the tables that the code itself uses.

python docs/make_signals.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from drawn import main

from everycore.core.signals import POOL, Signal, Surroundings
from everycore.core.stopping import (
    COMMAND,
    GUEST,
    PROGRAM,
    WORKER,
    PrimaryStage,
    StopInput,
    StopStep,
    Table,
    WorkerStage,
)

PAGE = Path(__file__).parent / "reference" / "signals.md"
S = TypeVar("S", PrimaryStage, WorkerStage)


def steps(table: Table[S], keep: Callable[[tuple[S, StopInput]], bool]) -> str:
    """The steps as a Markdown table; inputs of one stage with the same effect share a row."""
    rows: dict[tuple[S, StopStep[S]], list[StopInput]] = {}
    order = {stage: number for number, stage in enumerate(type(next(iter(table))[0]))}
    for stage, what in sorted(table, key=lambda key: order[key[0]]):
        if keep((stage, what)):
            rows.setdefault((stage, table[stage, what]), []).append(what)
    lines = ["| state | what comes | what is done | state after |", "|---|---|---|---|"]
    for (stage, step), inputs in rows.items():
        comes = "; ".join(what.value for what in inputs)
        done = "; then ".join(action.value for action in step.actions) or "nothing"
        lines.append(f"| {name(stage)} | {comes} | {done} | {name(step.after)} |")
    return "\n".join(lines)


def stages(kind: Iterable[PrimaryStage] | Iterable[WorkerStage]) -> str:
    """The meaning of each state."""
    lines = [f"| {name(stage)} | {stage.value} |" for stage in kind]
    return "\n".join(["| state | |", "|---|---|", *lines])


def orders() -> str:
    """The effects of the signals that command a pool. Equal cells are merged, from the left."""
    head = ["signal", *(where.value for where in Surroundings)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for signal in Signal:
        acts = [POOL[signal, where] for where in Surroundings]
        cells = [
            act.value if index == 0 or act is not acts[index - 1] else "the same"
            for index, act in enumerate(acts)
        ]
        lines.append("| " + " | ".join([signal.value, *cells]) + " |")
    return "\n".join(lines)


def name(stage: PrimaryStage | WorkerStage) -> str:
    return stage.name.lower()


def changes(table: Table[S]) -> Callable[[tuple[S, StopInput]], bool]:
    return lambda key: table[key] != StopStep(key[0])


DRAWN: Mapping[str, Callable[[], str]] = {
    "primary": lambda: stages(PrimaryStage),
    "orders": orders,
    "command": lambda: steps(COMMAND, lambda _: True),
    "program": lambda: steps(PROGRAM, lambda _: True),
    "worker": lambda: stages(WorkerStage),
    "worker steps": lambda: steps(WORKER, changes(WORKER)),
    "guest steps": lambda: steps(GUEST, lambda key: GUEST[key] != WORKER[key]),
}


if __name__ == "__main__":
    sys.exit(main(PAGE, DRAWN))
