"""Where a setting of the command line comes from, and how its text is read.

Argument, then `EVERYCORE_<OPTION>`, then other variables named for that option, then the default; the text is
read by one of the parsers below, whose errors name the option and the source. Invariant: an empty variable
counts as not set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from everycore.errors import ConfigurationError
from everycore.settings import check_choice, check_loop, check_seconds

T = TypeVar("T")

#: text, the name of the option, the source -> the value; raises ConfigurationError.
Parser = Callable[[str, str, str], T]

#: What ConfigurationError takes for "the caller said so", which needs no mention.
_ARGUMENT = "argument"


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """A value and where it came from: an option (`--workers`), a variable, or "default"."""

    value: T
    source: str


def resolve(
    option: str,
    argument: str | None,
    parse: Parser[T],
    default: T,
    *,
    environ: Mapping[str, str],
    also: tuple[str, ...] = (),
) -> Resolved[T]:
    """The value of an option such as `--grace`; `also` are variables asked after EVERYCORE_GRACE."""
    if argument is not None:
        return Resolved(parse(argument, option, _ARGUMENT), option)
    for name in (variable(option), *also):
        if text := environ.get(name):
            return Resolved(parse(text, option, name), name)
    return Resolved(default, "default")


def variable(option: str) -> str:
    """The environment variable of an option."""
    return "EVERYCORE_" + option.removeprefix("--").replace("-", "_").upper()


def parse_workers(text: str, option: str, source: str) -> int | Literal["auto"]:
    """Read a whole number of at least 1, or `auto`."""
    if text == "auto":
        return "auto"
    return _whole(text, 1, option, source, or_else="'auto' or ")


def parse_count(least: int) -> Parser[int]:
    """A whole number of at least `least`."""
    return lambda text, option, source: _whole(text, least, option, source)


def _whole(text: str, least: int, option: str, source: str, *, or_else: str = "") -> int:
    # int() alone would take "1_0", " 4" and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        problem = f"must be {or_else}a whole number of at least {least}, not {text!r}"
        raise ConfigurationError(option, problem, source=source)
    return int(text)


def parse_seconds(least: float) -> Parser[float]:
    """A finite number of seconds of at least `least`."""

    def parse(text: str, option: str, source: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ConfigurationError(
                option, f"must be a number of seconds, not {text!r}", source=source
            ) from None
        return check_seconds(option, value, source=source, least=least)

    return parse


def parse_choice(known: tuple[str, ...]) -> Parser[str]:
    """One of `known`."""
    return lambda text, option, source: check_choice(option, text, known, source=source)


def parse_loop(text: str, option: str, source: str) -> str:
    """An event loop that is installed."""
    return check_loop(option, text, source=source)


def parse_text(text: str, option: str, source: str) -> str:
    """Anything, on one line."""
    if not text.isprintable():
        raise ConfigurationError(option, f"must be printable text, not {text!r}", source=source)
    return text


def why_not_there(kind: str, path: str) -> str:
    """Why there is no "file" or "folder" at `path`, for a message."""
    try:
        os.stat(path)
    except PermissionError:
        return f"uid {os.geteuid()} has no permission to reach the {kind} {path!r}"
    except OSError:
        pass  # whatever it is, it is not there
    return f"there is no {kind} {path!r}"
