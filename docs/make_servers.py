"""Draws the table of reference/servers.md from the results of the test matrix (tests/matrix).

python docs/make_servers.py [--check]    # rewrites the page; --check only says whether it is current
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from drawn import main  # noqa: E402

from tests.matrix import results  # noqa: E402
from tests.matrix.table import POLICIES, PROPERTIES, ROWS, Row  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "servers.md"


def stem(row: Row) -> str:
    """The common name of rows about one server: "aiohttp" of "aiohttp, TLS"."""
    return row.name.partition(", ")[0]


def started(row: Row) -> str:
    """The command line, with the example's places filled in."""
    words = row.command.format(port=8000, path="app.sock", pem="cert.pem", programs=".")
    return f"`everycore run {words.replace('./', '')}`"


def cell(row: Row, found: dict[str, Any], policy: str) -> str:
    """Whether it has every promised property, or which it lacks, and why."""
    if policy not in found:
        return "not tried"
    missing = [row.exception(what, policy) for what in PROPERTIES if what not in found[policy]]
    reasons = "; ".join(dict.fromkeys(reason for reason in missing if reason))
    return f"yes; {reasons}" if reasons else "yes"


def servers() -> str:
    """One line for each way to start a server; TLS and unix sockets: whether they were tested with it."""
    found = results.read()
    head = ["server", "version", "started by", "loop", *(f"`{policy}`" for policy in POLICIES), "TLS", "unix"]
    lines = ["| " + " | ".join([*head, "what to know"]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in ROWS:
        is_variant = (row.is_tls or row.is_unix) and row.name != stem(row)
        if row.name not in found or is_variant:
            continue
        alike = [other for other in ROWS if stem(other) == stem(row) and other.name in found]
        marks = ["yes" * any(other.is_tls for other in alike), "yes" * any(other.is_unix for other in alike)]
        entry = found[row.name]
        cells = [row.name, entry["version"] or "", started(row), row.loop]
        cells += [cell(row, entry, policy) for policy in POLICIES] + marks + [row.note]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def properties() -> str:
    """The meaning of "yes"."""
    return "\n".join(f"* {text}" for text in PROPERTIES.values())


def count() -> str:
    """The number of servers."""
    found = results.read()
    packages = {row.package for row in ROWS if row.name in found} - {"python"}
    return f"{len(found)} programs of {len(packages)} packages, and of the standard library."


if __name__ == "__main__":
    sys.exit(main(PAGE, {"count": count, "properties": properties, "servers": servers}))
