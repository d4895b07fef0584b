"""Draws the table of reference/metrics.md from the catalogue that the observer fills.

python docs/make_metrics.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from pathlib import Path

from drawn import main

from everycore.observer.catalogue import CATALOGUE, PREFIX

PAGE = Path(__file__).parent / "reference" / "metrics.md"
#: The name of a sample, by kind.
ENDINGS = {"counter": "_total", "info": "_info"}


def catalogue() -> str:
    """Every metric, one row each."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for one in CATALOGUE.values():
        name = PREFIX + one.name + ENDINGS.get(one.kind, "")
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{name}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(PAGE, {"": catalogue}))
