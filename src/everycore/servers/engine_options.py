"""The options of uvicorn, as uvicorn itself lists them, so that a new one needs no work here.

This module reads uvicorn's own command, and turns each option into a field of everycore's settings, if
uvicorn's `Config` has a parameter of that name. `arguments` does what uvicorn's command does between the two
(it splits headers). The module is imported only if such an option is used, or for `--help`.

Facts (uvicorn 0.30 to 0.54): the installed command is `uvicorn.main:main`, a click command whose parameters
bear the names of `Config`'s. `--header` may be repeated, and is `headers: list[tuple[str, str]]` there.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, Final

import click

from everycore.config.kinds import Form, Schema, Text
from everycore.config.setting import EngineField, Field, Setting, shown
from everycore.servers.engine_arguments import HEADERS

SECTION: Final = "Engine: uvicorn's own options"
#: The names that gunicorn and hypercorn have for the same options.
ALSO: Final = {
    "timeout_keep_alive": ("--keep-alive",),
    "ssl_keyfile": ("--keyfile",),
    "ssl_certfile": ("--certfile", "--ssl-certificate"),
    "ssl_keyfile_password": ("--keyfile-password",),
    "ssl_ca_certs": ("--ca-certs", "--ssl-ca"),
    "ssl_ciphers": ("--ciphers",),
    "ssl_cert_reqs": ("--cert-reqs",),
    "ws_max_size": ("--websocket-max-message-size",),
    "ws_ping_interval": ("--websocket-ping-interval",),
}
SECRET: Final = frozenset({"ssl_keyfile_password"})
_LINE_ENDS: Final = frozenset("\0\r\n")
_MOST: Final = 2**31 - 1


class EngineKind:
    """One option of the engine. The engine's own command converts its values from text."""

    def __init__(self, option: click.Option) -> None:
        self._option = option
        self._type = option.type
        self.metavar = "" if option.is_flag else option.type.name.upper()
        self.form: Form = "switch" if option.is_flag else "several" if option.multiple else "value"

    def from_text(self, text: str) -> Any:
        """As `Kind.from_text`."""
        if self._option.multiple:
            return self.from_texts([part.strip() for part in text.split(",")])
        return self._convert(text)

    def from_texts(self, texts: Sequence[str]) -> tuple[Any, ...]:
        """The value of an option that may be repeated."""
        return tuple(self._checked_header(self._convert(text)) for text in texts)

    def from_key(self, value: Any) -> Any:
        """As `Kind.from_key`."""
        if self._option.multiple:
            return self.from_texts(value if isinstance(value, list) else [value])
        wanted = _JSON_TYPES.get(self._type.name, "string")
        if not _is_a(value, wanted):
            raise ValueError(f"must be {_WORDS[wanted]}, not {value!r}")
        return self._convert(value)

    def _convert(self, value: Any) -> Any:
        try:
            converted = self._type.convert(value, self._option, None)
        except click.BadParameter as error:
            raise ValueError(error.message.rstrip(".")) from None
        if isinstance(converted, str) and not _LINE_ENDS.isdisjoint(converted):
            raise ValueError(f"must be one line of text, not {converted!r}")
        # None of uvicorn's numbers is negative, or larger than any clock or size can hold.
        is_number = isinstance(converted, int | float) and not isinstance(converted, bool)
        if is_number and not 0 <= converted <= _MOST:  # nan fails both comparisons
            raise ValueError(f"must be from 0 to {_MOST}, not {converted!r}")
        return converted

    def _checked_header(self, text: Any) -> Any:
        return _checked_header(text) if self._option.name == HEADERS else text

    def schema(self) -> Schema:
        """As `Kind.schema`."""
        if isinstance(self._type, click.Choice):
            return {"enum": list(self._type.choices)}
        one: Schema = {"type": _JSON_TYPES.get(self._type.name, "string")}
        return {"anyOf": [one, {"type": "array", "items": one}]} if self._option.multiple else one


class HeaderText(Text):
    """A header, as NAME:VALUE."""

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        return str(_checked_header(super().from_text(text)))


def _checked_header(text: Any) -> Any:
    if not isinstance(text, str) or not text.partition(":")[1]:
        raise ValueError(f"must be NAME:VALUE, not {text!r}")
    if any(ord(letter) > 255 for letter in text):
        raise ValueError(f"must be Latin-1 text, not {text!r}")
    return text


_JSON_TYPES: Final = {"integer": "integer", "float": "number", "boolean": "boolean"}
_WORDS: Final = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
}


def _is_a(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    match wanted:
        case "integer":
            return isinstance(value, int)
        case "number":
            return isinstance(value, int | float)
        case "string":
            return isinstance(value, str)
    return False


def engine_fields(taken: frozenset[str]) -> tuple[Field, ...]:
    """The options of the installed engine, except those that are `taken`, such as `--bind`.

    everycore has those itself, or refuses them. Empty if uvicorn is not installed.
    """
    try:
        command = importlib.import_module("uvicorn.main").main
        config = importlib.import_module("uvicorn").Config
    except ImportError:
        return ()
    parameters = inspect.signature(config).parameters
    return tuple(
        _field(option, parameters[str(option.name)].default)
        for option in command.params
        if isinstance(option, click.Option) and option.name in parameters and taken.isdisjoint(option.opts)
    )


def _field(option: click.Option, default: Any) -> Field:
    name = str(option.name)
    setting = Setting(
        EngineKind(option),
        (option.help or "").partition("\n")[0],
        SECTION,
        also=ALSO.get(name, ()),
        default=shown(default) if default != "" and isinstance(default, str | int | float) else "",
        is_secret=name in SECRET,
    )
    return EngineField(name, option.opts[0].removeprefix("--").replace("-", "_"), setting)
