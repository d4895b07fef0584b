"""Which id a request has in the logs: the id that its client sent, if that is fit for a log line.

A client may send anything. An id is refused if it is long, or could end a line, close a quotation or control
a terminal. Invariant: an accepted id has at most `MOST_LETTERS` letters, all of them of `_LETTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

#: In lower case, as ASGI passes the names of headers.
HEADER: Final = b"x-request-id"
#: The longest id that is taken from a client.
MOST_LETTERS: Final = 128

#: The letters of UUIDs, ULIDs, trace ids, base64 and paths.
_LETTERS: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,%d}" % MOST_LETTERS)


def accepted(headers: Iterable[tuple[Any, Any]]) -> str | None:
    """Return the id that the client sent. None if it sent none, several, or one that is not fit."""
    found = [value for name, value in headers if name == HEADER]
    if len(found) != 1 or _LETTERS.fullmatch(found[0]) is None:
        return None
    return bytes(found[0]).decode("ascii")


def with_id(headers: Iterable[tuple[Any, Any]], request_id: str) -> list[tuple[Any, Any]]:
    """Return `headers` with `request_id` as the only request id."""
    kept = [header for header in headers if header[0] != HEADER]
    return [*kept, (HEADER, request_id.encode("ascii"))]
