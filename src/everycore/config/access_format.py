"""The format of the access log (`--access-logformat`), in gunicorn's words.

Say which atoms there are, and check a format. Invariant: a format that was checked formats every
request. Pure.
"""

from __future__ import annotations

import re
from typing import Final

#: What uvicorn tells of a request: gunicorn's names for it.
ATOMS: Final = {
    "h": "the client's address",
    "l": "a dash",
    "u": "a dash",
    "t": "the time",
    "r": "the request line",
    "m": "the method",
    "U": "the path",
    "q": "the query",
    "H": "the protocol",
    "s": "the status",
    "p": "the worker's process id",
}
_ATOM: Final = re.compile(r"%(?:\(([^)]*)\)(.)|(.?))")


def check_format(text: str) -> None:
    """Raises ValueError for what is no format, and for atoms that nobody tells us."""
    for found in _ATOM.finditer(text):
        name, conversion, other = found.groups()
        if name is None and other != "%":
            raise ValueError(f"a per cent sign is written %%, unlike in {text!r}")
        if name is not None and (name not in ATOMS or conversion != "s"):
            known = ", ".join(f"%({atom})s" for atom in ATOMS)
            raise ValueError(f"has no {found[0]}; there are {known}")


def atoms(client: str, method: str, target: str, version: str, status: int) -> dict[str, object]:
    """The atoms of a request but time and process: what uvicorn tells of it."""
    path, _, query = target.partition("?")
    host = client.rpartition(":")[0] or client or "-"
    return {
        "h": host,
        "l": "-",
        "u": "-",
        "r": f"{method} {target} HTTP/{version}",
        "m": method,
        "U": path,
        "q": query,
        "H": f"HTTP/{version}",
        "s": status,
    }
