"""The format of the access log (`--access-logformat`), in gunicorn's syntax.

This module lists the atoms and checks a format. Invariant: a format that passed the check can format every
request. The module is pure.
"""

from __future__ import annotations

import re
from typing import Final

#: What is known of a request: gunicorn's names for it, and two of everycore's own.
ATOMS: Final = {
    "h": "the client's address",
    "l": "a dash",
    "u": "a dash",
    "t": "the time at which the answer was complete",
    "r": "the request line",
    "m": "the method",
    "U": "the path",
    "q": "the query",
    "H": "the protocol",
    "s": "the status",
    "B": "the length of the answer's body in bytes",
    "b": "the same; a dash for 0",
    "f": "the header Referer",
    "a": "the header User-Agent",
    "T": "the duration in whole seconds",
    "L": "the duration in seconds, with six decimals",
    "M": "the duration in whole milliseconds",
    "D": "the duration in microseconds",
    "p": "the worker's process id",
    "worker": "the worker's id",
    "request_id": "the request's id",
}
#: Two more atoms: a header of the request, and one of the answer.
HEADER_ATOMS: Final = {"{NAME}i": "a header of the request", "{NAME}o": "a header of the answer"}
_ATOM: Final = re.compile(r"%(?:\(([^)]*)\)(.)|(.?))")
_HEADER: Final = re.compile(r"\{([^{}]+)\}([io])")
#: The characters that would end a quoted string, and their escapes.
_QUOTED: Final = str.maketrans({'"': '\\"', "\\": "\\\\"})


def check_format(text: str) -> None:
    """Raise ValueError for text that is not a format, and for unknown atoms."""
    for found in _ATOM.finditer(text):
        name, conversion, other = found.groups()
        if name is None and other != "%":
            raise ValueError(f"needs %% for a per cent sign, unlike {text!r}")
        if name is not None and (conversion != "s" or (name not in ATOMS and header_of(name) is None)):
            known = ", ".join(f"%({atom})s" for atom in (*ATOMS, *HEADER_ATOMS))
            raise ValueError(f"must not contain {found[0]}; the atoms are {known}")


def header_of(atom: str) -> tuple[str, str] | None:
    """The name of the header, in lower case, and "i" or "o"; None for another atom."""
    found = _HEADER.fullmatch(atom)
    return None if found is None else (found[1].lower(), found[2])


def on_one_line(text: str) -> str:
    """`text` with every character escaped that would end its line or its quotes, or control a terminal."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    text = text.translate(_QUOTED)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
