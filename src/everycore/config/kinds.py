"""The kinds of settings: how text is read, what a file may hold, and the JSON schema.

Each kind reads the text of an option or a variable, and the value of a key in a TOML file. Invariant: a value
that a kind has returned is valid. For an invalid value it raises ValueError, whose text continues "--grace:
". The module is pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from everycore.errors import ConfigurationError
from everycore.settings import check_loop

Schema = dict[str, Any]
#: An option that takes a value, one that does not, or one that may be repeated (its kind has `from_texts`).
Form = Literal["value", "switch", "several"]

_TRUE: Final = ("1", "true", "yes", "on")
#: No number here needs more digits, and int() refuses thousands of them.
_MOST_DIGITS: Final = 19
#: The largest `int` of C, which the kernel takes for counts and descriptors.
_MOST: Final = 2**31 - 1
_FALSE: Final = ("0", "false", "no", "off")


class Kind(Protocol):
    """One kind of setting. All methods raise ValueError for an invalid value."""

    @property
    def metavar(self) -> str:
        """The placeholder of the value in `--help`; empty for a switch."""

    @property
    def form(self) -> Form:
        """How the option is given on the command line."""

    def from_text(self, text: str) -> Any:
        """Read the text of an option or a variable."""

    def from_key(self, value: Any) -> Any:
        """Read the value of a key in a file."""

    def schema(self) -> Schema:
        """The JSON schema of the value in a file."""


def _wrong(wanted: str, value: object) -> ValueError:
    """The error for a value of the wrong type. It is a ValueError, since the user wrote the value."""
    return ValueError(f"must be {wanted}, not {value!r}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


class Text:
    """One line of text. `check` raises ValueError for text that is not allowed."""

    form: Form = "value"
    #: Whether one text may hold several values, separated by commas, on the command line too.
    has_commas = False

    def __init__(self, metavar: str = "TEXT", check: Callable[[str], object] | None = None) -> None:
        self.metavar = metavar
        self._check = check

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        if not text.isprintable():
            raise ValueError(f"must be printable text, not {text!r}")
        if self._check is not None:
            self._check(text)
        return text

    def from_key(self, value: Any) -> str:
        """As `Kind.from_key`."""
        if not isinstance(value, str):
            raise _wrong("text", value)
        return self.from_text(value)

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        return {"type": "string"}


class Path(Text):
    """A path. Its bytes need not be text: `os.fsdecode` turns those that are not into surrogates.

    what: how error messages describe it.
    """

    def __init__(self, metavar: str = "PATH", what: str = "a path") -> None:
        super().__init__(metavar)
        self._what = what

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        if not text or "\0" in text or "\n" in text:
            raise ValueError(f"must be {self._what}, not {text!r}")
        return text

    def from_key(self, value: Any) -> str:
        """As `Kind.from_key`."""
        if not isinstance(value, str):
            raise _wrong(self._what, value)
        return self.from_text(value)


#: An address to listen on.
ADDRESS: Final = Path("ADDRESS", "an address, such as 127.0.0.1:8000 or unix:PATH")


class Choice:
    """One of a few words."""

    form: Form = "value"
    metavar = "NAME"

    def __init__(self, *known: str, metavar: str = "NAME") -> None:
        self.known = known
        self.metavar = metavar

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        if text not in self.known:
            raise ValueError(f"must be one of {', '.join(self.known)}, not {text!r}")
        return text

    from_key = from_text

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        return {"enum": list(self.known)}


class LoopName(Choice):
    """The name of an event loop, which must be installed."""

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        try:
            return check_loop("loop", text)
        except ConfigurationError as error:
            raise ValueError(error.problem) from None

    from_key = from_text


class EngineName(Choice):
    """The name of a server that handles HTTP."""

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        if text == "granian":
            raise ValueError(
                "does not support granian, whose classes listen by themselves, so that no connection can be"
                " handed to them; use hypercorn for HTTP/2, or granian's own command"
            )
        return super().from_text(text)

    from_key = from_text


class Count:
    """A whole number from `least` to `most`, or, if `auto` is set, the word `auto`."""

    form: Form = "value"

    def __init__(self, least: int, *, auto: bool = False, metavar: str = "N", most: int = _MOST) -> None:
        self.metavar = f"{metavar}|auto" if auto else metavar
        self._least, self._most, self._auto = least, most, auto

    def from_text(self, text: str) -> int | str:
        """As `Kind.from_text`."""
        if self._auto and text == "auto":
            return text
        # int() alone would take "1_0", " 4" and digits of other scripts.
        is_number = text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS
        return self._checked(int(text) if is_number else -1, text)

    def from_key(self, value: Any) -> int | str:
        """As `Kind.from_key`."""
        if isinstance(value, str) and self._auto:
            return self.from_text(value)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return self._checked(value if is_number else -1, value)

    def _checked(self, number: int, shown: object) -> int:
        if not self._least <= number <= self._most:
            what = "'auto' or " if self._auto else ""
            raise ValueError(
                f"must be {what}a whole number from {self._least} to {self._most}, not {shown!r}"
            )
        return number

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        number: Schema = {"type": "integer", "minimum": self._least, "maximum": self._most}
        return {"anyOf": [number, {"const": "auto"}]} if self._auto else number


class Seconds:
    """A finite number of seconds, at least `least`. If `or_never` is set, 0 is allowed and means no limit."""

    form: Form = "value"
    metavar = "SECONDS"

    def __init__(self, least: float = 0.0, *, or_never: bool = False) -> None:
        self._least = least
        self._or_never = or_never

    def from_text(self, text: str) -> float:
        """As `Kind.from_text`."""
        # float() alone would take "1_0", " 4" and digits of other scripts.
        if not text.isascii() or "_" in text or text != text.strip():
            raise _wrong("a number of seconds", text)
        try:
            seconds = float(text)
        except ValueError:
            raise _wrong("a number of seconds", text) from None
        return self.from_key(seconds)

    def from_key(self, value: Any) -> float:
        """As `Kind.from_key`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong("a number of seconds", value)
        if self._or_never and value == 0:
            return 0.0
        if not _is_finite(value) or value < self._least:
            never = "0, for never, or " if self._or_never else ""
            raise ValueError(f"must be {never}at least {self._least:g} seconds, not {value!r}")
        return float(value)

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        number: Schema = {"type": "number", "minimum": self._least}
        return {"anyOf": [number, {"const": 0}]} if self._or_never else number


#: A limit for a process's memory below this is an error: the interpreter alone needs ten times as much.
_SMALLEST_SIZE: Final = 2**20


class Size:
    """A number of bytes: `300M`, `1.5G`, `314572800`; K, M, G and T are powers of 1024. 0: no limit."""

    form: Form = "value"
    metavar = "SIZE"

    def from_text(self, text: str) -> int:
        """As `Kind.from_text`."""
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)(?:([KMGT])(?:i?B)?)?", text, re.ASCII | re.IGNORECASE)
        if found is None or (found[2] is None and "." in text):
            raise ValueError(f"must be a size such as 300M or 1.5G, not {text!r}")
        power = 0 if found[2] is None else "KMGT".index(found[2].upper()) + 1
        return self._checked(int(float(found[1]) * 1024.0**power), text)

    def from_key(self, value: Any) -> int:
        """As `Kind.from_key`."""
        if isinstance(value, str):
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong("a size such as '300M', or a number of bytes", value)
        return self._checked(value, value)

    @staticmethod
    def _checked(size: int, given: object) -> int:
        """Refuse sizes that no process fits in: a user that writes 300 means megabytes."""
        if 0 < size < _SMALLEST_SIZE:
            raise ValueError(
                f"must be at least 1M, a size such as 300M, not {given!r}, which means {size} bytes"
            )
        return size

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        least = {"type": "integer", "minimum": _SMALLEST_SIZE}
        return {"anyOf": [{"enum": [0]}, least, {"type": "string"}]}


class Mode:
    """Permissions in octal digits: `022`, `0o022`, `22`. A number in a TOML file is taken as it is."""

    form: Form = "value"
    metavar = "OCTAL"

    def from_text(self, text: str) -> int:
        """As `Kind.from_text`."""
        if not re.fullmatch(r"(0o?)?[0-7]{1,3}", text):
            raise ValueError(f"must be octal digits from 0 to 777, as in 022, not {text!r}")
        return int(text.removeprefix("0o"), 8)

    def from_key(self, value: Any) -> int:
        """As `Kind.from_key`."""
        if isinstance(value, str):
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
            raise ValueError(f"must be between 0o0 and 0o777, not {value!r}")
        return value

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        number: Schema = {"type": "integer", "minimum": 0, "maximum": 0o777}
        return {"anyOf": [number, {"type": "string", "pattern": "^(0o?)?[0-7]{1,3}$"}]}


class Switch:
    """On or off."""

    form: Form = "switch"
    metavar = ""

    def from_text(self, text: str) -> bool:
        """As `Kind.from_text`."""
        word = text.lower()
        if word not in (*_TRUE, *_FALSE):
            raise ValueError(f"must be true or false, not {text!r}")
        return word in _TRUE

    def from_key(self, value: Any) -> bool:
        """As `Kind.from_key`."""
        if not isinstance(value, bool):
            raise _wrong("true or false", value)
        return value

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        return {"type": "boolean"}


class Several:
    """Several values: a repeated option, a variable with commas, and in a file a list or one value."""

    form: Form = "several"

    def __init__(self, one: Text) -> None:
        self._one = one
        self.metavar = one.metavar

    def from_text(self, text: str) -> tuple[str, ...]:
        """As `Kind.from_text`, for a variable."""
        return self.from_texts([part.strip() for part in text.split(",")])

    def from_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Read the values of a repeated option."""
        if self._one.has_commas:
            texts = [part.strip() for text in texts for part in text.split(",")]
        return tuple(self._one.from_text(text) for text in texts)

    def from_key(self, value: Any) -> tuple[str, ...]:
        """As `Kind.from_key`."""
        values = value if isinstance(value, list) else [value]
        return tuple(self._one.from_key(item) for item in values)

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        one = self._one.schema()
        return {"anyOf": [one, {"type": "array", "items": one}]}


class Variables:
    """Environment variables: `NAME=VALUE`, which may be repeated; in a file, a table."""

    form: Form = "several"
    metavar = "NAME=VALUE"

    def from_text(self, text: str) -> dict[str, str]:
        """As `Kind.from_text`, for a variable."""
        return self.from_texts(text.split(","))

    def from_texts(self, texts: Sequence[str]) -> dict[str, str]:
        """Read the values of a repeated option."""
        found = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not name or not equals:
                raise ValueError(f"must be NAME=VALUE, not {text!r}")
            found[name] = value
        return self.from_key(found)

    def from_key(self, value: Any) -> dict[str, str]:
        """As `Kind.from_key`."""
        if not isinstance(value, Mapping):
            raise _wrong('a table of variables, { NAME = "value" }', value)
        for name, text in value.items():
            if not isinstance(text, str) or "\0" in text or "\0" in name or "=" in name or not name:
                raise ValueError(f"must be a table of names and texts, not {name!r} and {text!r}")
        return dict(value)

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        return {"type": "object", "additionalProperties": {"type": "string"}}
