"""Turns the engine's options, as `everycore serve` has read them, into the arguments of uvicorn's `Config`.

This is separate from `engine_options`, because a worker needs neither the kinds of options nor the command
line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

HEADERS: Final = "headers"


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `Config` for these values, whose names are those of its parameters."""
    found = dict(values)
    if HEADERS in found:
        found[HEADERS] = split_headers(found[HEADERS])
    return found


def split_headers(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The names and values of texts such as `X-Frame-Options: DENY`."""
    return [(name.strip(), value.strip()) for name, _, value in (text.partition(":") for text in texts)]
