"""Draws explanation/worker-states.md from the table that the code itself runs by.

python docs/make_states.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from pathlib import Path

from everycore.core.lifecycle import TABLE, Do, Input
from everycore.model import State

PAGE = Path(__file__).parent / "explanation" / "worker-states.md"
BEGIN, END = "<!-- begin: made by docs/make_states.py -->", "<!-- end -->"


def drawn() -> str:
    """What stands between the marks."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (before, what), after in TABLE.items():
        arrows.setdefault((before, after), []).append(what.name)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.NONE}"]
    lines += [f"    {a} --> {b}: {' / '.join(names)}" for (a, b), names in arrows.items()]
    lines += [f"    {State.DEAD} --> [*]", "```", ""]
    lines += ["| input | what happened |", "|---|---|"]
    lines += [f"| {what.name} | {what.value} |" for what in Input]
    lines += ["", "| step | what is done |", "|---|---|"]
    lines += [f"| {step.name} | {step.value} |" for step in Do]
    return "\n".join(lines)


def page(old: str) -> str:
    """The page with a fresh drawing."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{drawn()}\n\n{END}{after}"


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
