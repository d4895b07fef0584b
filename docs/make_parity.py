"""Draws the table of Node's tests in reference/node-parity.md from the tests that stand for them.

python docs/make_parity.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from drawn import main  # noqa: E402

from tests.conformance.catalogue import NOT_HERE, ROWS  # noqa: E402
from tests.conformance.node import translations  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "node-parity.md"


def table() -> str:
    """The part between the marks."""
    ours = {name: it for it in translations() for name in it.names}
    counts: Counter[str] = Counter()
    sections: list[str] = []
    for title, rows in ROWS.items():
        sections += [f"### {title}", "", "| Node | everycore | status | note |", "|---|---|---|---|"]
        for row in rows:
            folder, name = row.split()
            found = ours.get(name)
            if found is None:
                status, test, note = "no", "", NOT_HERE.get(name, "not translated")
            else:
                status = "adapted" if found.adapted else "yes"
                test = f"[{found.function}](../../tests/conformance/{found.file})"
                note = " ".join((found.adapted or "").split())
            counts[status] += 1
            sections.append(f"| {folder} {name} | {test} | {status} | {note} |")
        sections.append("")
    total = ", ".join(f"{counts[status]} {status}" for status in ("yes", "adapted", "no"))
    return "\n".join([f"{counts.total()} tests of Node: {total}.", "", *sections]).rstrip()


if __name__ == "__main__":
    sys.exit(main(PAGE, {"": table}))
