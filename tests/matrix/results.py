"""The results of the matrix: `results.json`, from which the page of servers is drawn.

A test that passes stores what it has seen. One that fails leaves the earlier result. Invariant: the
same findings give the same file.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.matrix.table import ROWS

PATH = Path(__file__).parent / "results.json"


class Finding(NamedTuple):
    """One program under one policy."""

    row: str
    policy: str
    #: The version of its package; "" for the standard library.
    version: str
    #: The properties that were seen (`table.PROPERTIES`).
    properties: list[str]


def read(path: Path = PATH) -> dict[str, Any]:
    """Row name -> the version that was tried, and the properties that it had under each policy."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def keep(findings: Iterable[Finding], path: Path = PATH) -> None:
    """Add these, in the order of the table, and remove programs that are no longer in it."""
    before = read(path)
    for finding in findings:
        entry = before.get(finding.row, {"version": finding.version})
        if entry["version"] != finding.version:
            entry = {"version": finding.version}
        before[finding.row] = entry | {finding.policy: finding.properties}
    ordered = {row.name: dict(sorted(before[row.name].items())) for row in ROWS if row.name in before}
    text = json.dumps(ordered, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
