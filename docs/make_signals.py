"""Draws the tables of reference/signals.md from those that the code itself runs by.

python docs/make_signals.py [--check]    # rewrites the page; --check only says whether it is current
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

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
BEGIN, END = "<!-- begin {}: made by docs/make_signals.py -->", "<!-- end -->"
S = TypeVar("S", PrimaryStage, WorkerStage)


def steps(table: Table[S], keep: Callable[[tuple[S, StopInput]], bool]) -> str:
    """The steps as a Markdown table; inputs of one stage that do the same share a row."""
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


def stages(kind: Iterable[S]) -> str:
    """What each state is."""
    lines = [f"| {name(stage)} | {stage.value} |" for stage in kind]
    return "\n".join(["| state | |", "|---|---|", *lines])


def name(stage: PrimaryStage | WorkerStage) -> str:
    return stage.name.lower()


def changes(table: Table[S]) -> Callable[[tuple[S, StopInput]], bool]:
    return lambda key: table[key] != StopStep(key[0])


DRAWN: Mapping[str, Callable[[], str]] = {
    "primary": lambda: stages(PrimaryStage),
    "command": lambda: steps(COMMAND, lambda _: True),
    "program": lambda: steps(PROGRAM, lambda _: True),
    "worker": lambda: stages(WorkerStage),
    "worker steps": lambda: steps(WORKER, changes(WORKER)),
    "guest steps": lambda: steps(GUEST, lambda key: GUEST[key] != WORKER[key]),
}


def page(old: str) -> str:
    """The page with fresh tables. Raises ValueError where the place of one is missing."""
    for table, draw in DRAWN.items():
        begin = BEGIN.format(table)
        old, found = re.subn(
            rf"{re.escape(begin)}.*?{re.escape(END)}",
            lambda _, drawn=f"{begin}\n\n{draw()}\n\n{END}": drawn,  # type: ignore[misc]
            old,
            flags=re.DOTALL,
        )
        if found != 1:
            raise ValueError(f"{PAGE.name} has {found} places for {table!r}")
    return old


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
