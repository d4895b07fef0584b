"""Draws explanation/worker-states.md from the table that the code itself uses.

python docs/make_states.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from pathlib import Path

from drawn import main

from everycore.core.lifecycle import STAGES, TABLE, LifeAction, LifeInput, LifeStep, Stage, TimeLimit
from everycore.model import State

PAGE = Path(__file__).parent / "explanation" / "worker-states.md"


def drawn() -> str:
    """The part between the marks."""
    arrows: dict[tuple[Stage, Stage], list[str]] = {}
    for (before, what), step in TABLE.items():
        if step.after is not before:
            arrows.setdefault((before, step.after), []).append(what.name)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.NONE}"]
    lines += [f"    {name(a)} --> {name(b)}: {' / '.join(names)}" for (a, b), names in arrows.items()]
    lines += [f"    {State.DEAD} --> [*]", "```", ""]
    lines += ["| state | input | state after | steps, in order | limit |", "|---|---|---|---|---|"]
    lines += [
        row(stage, what) for stage in STAGES for what in LifeInput if TABLE[stage, what] != LifeStep(stage)
    ]
    lines += ["", "| input | what happened |", "|---|---|"]
    lines += [f"| {what.name} | {what.value} |" for what in LifeInput]
    lines += ["", "| step | what is done |", "|---|---|"]
    lines += [f"| {step.name} | {step.value} |" for step in LifeAction]
    lines += ["", "| limit | when the worker is killed |", "|---|---|"]
    lines += [f"| {limit.name} | {limit.value} |" for limit in TimeLimit]
    return "\n".join(lines)


def row(stage: Stage, what: LifeInput) -> str:
    """One step of the table as a row of the page."""
    step = TABLE[stage, what]
    if step.error:
        return f"| {name(stage)} | {what.name} | | an error: {step.error} | |"
    actions = ", ".join(action.name for action in step.actions)
    after = name(step.after) if step.via is None else f"{name(step.after)}, via {name(step.via)}"
    return f"| {name(stage)} | {what.name} | {after} | {actions} | {step.limit.name if step.limit else ''} |"


def name(stage: Stage) -> str:
    """A name as mermaid takes it: one word."""
    return stage.value.replace(" ", "_")


if __name__ == "__main__":
    sys.exit(main(PAGE, {"": drawn}))
