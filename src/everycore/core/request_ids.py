"""Which id a request has in the logs: the one that its client sent, where that is fit for a log line.

A client may send anything. What is long, or could end a line, close a quotation or command a terminal, is
nobody's id. Invariant: an id that was accepted has at most `MOST_LETTERS` letters, all of `_LETTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

#: As ASGI has the names of headers: in lower case.
HEADER: Final = b"x-request-id"
#: The longest id that is taken from a client.
MOST_LETTERS: Final = 128

#: What UUIDs, ULIDs, trace ids, base64 and paths consist of.
_LETTERS: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,%d}" % MOST_LETTERS)


def accepted(headers: Iterable[tuple[Any, Any]]) -> str | None:
    """The id that the client has sent; None if there is none, are several, or one that is not fit."""
    found = [value for name, value in headers if name == HEADER]
    if len(found) != 1 or _LETTERS.fullmatch(found[0]) is None:
        return None
    return bytes(found[0]).decode("ascii")


def with_id(headers: Iterable[tuple[Any, Any]], request_id: str) -> list[tuple[Any, Any]]:
    """The headers with that id, and no other one."""
    kept = [header for header in headers if header[0] != HEADER]
    return [*kept, (HEADER, request_id.encode("ascii"))]
