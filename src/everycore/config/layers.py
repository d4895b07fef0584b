"""The value of a setting: from the option, else from a variable, else from the file, else the default.

This module merges the layers and reports what is wrong in them: a value that its kind refuses, an unknown key
or variable, one setting given twice with different values. Invariant: every error names the setting, and
where the value comes from. An empty variable counts as unset. The module is pure.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from everycore.config.setting import PREFIX, Field
from everycore.errors import ConfigurationError

#: The source in a ConfigurationError for what the caller passed, which the message does not mention.
_ARGUMENT: Final = "argument"
#: Variables with everycore's prefix that are not settings, or that everycore itself sets.
OTHER_VARIABLES: Final = frozenset(
    {"EVERYCORE_CONFIG", "EVERYCORE_WITHOUT", "EVERYCORE_WORKER_ID", "EVERYCORE_SLOT", "EVERYCORE_GENERATION"}
)
_OF_UVICORN: Final = "UVICORN_"
_OF_GUNICORN: Final = "GUNICORN_CMD_ARGS"
_OF_TESTS: Final = f"{PREFIX}TEST_"
#: Tables around the settings in other files, by their first word: a settings file of its own has none.
_HEADS: Final = {"everycore": "everycore", "tool": "tool.everycore"}
#: The tables of a file that apply to one command only.
TABLES: Final = ("serve", "run")


class Layer(enum.IntEnum):
    """Where a value comes from. A higher layer overrides a lower one."""

    DEFAULT = 0
    IMPLIED = 1
    FILE = 2
    VARIABLE = 3
    OPTION = 4


class Found:
    """A value, and its source: `--workers`, `WEB_CONCURRENCY`, `everycore.toml: workers`, `default`."""

    __slots__ = ("layer", "source", "value")

    def __init__(self, value: Any, source: str, layer: Layer) -> None:
        self.value = value
        self.source = source
        self.layer = layer

    @property
    def is_explicit(self) -> bool:
        """Whether the user has given the value, here or in a file."""
        return self.layer >= Layer.FILE


class File:
    """A settings file that was read: its keys, and its name for messages.

    Dashes equal underscores in keys.
    """

    def __init__(self, label: str, table: Mapping[str, Any]) -> None:
        self.label = label
        self._table = table

    def keys(self, command: str) -> dict[str, tuple[Any, str]]:
        """The keys that apply to `command`, by the names of their fields: the value, and the key as written.

        A key in the command's own table overrides the same key at the top.
        """
        found = self._named("", {key: value for key, value in self._table.items() if key not in TABLES})
        return found | self._named(f"{command}.", self._own_table(command))

    def all_keys(self) -> Iterator[tuple[str, str, str]]:
        """The name, the key as written, and the table ("" at the top) of every key."""
        for table in ("", *TABLES):
            tree = self._own_table(table) if table else self._table
            for key in tree:
                if table or key not in TABLES:
                    yield _name(key), f"{table}.{key}" if table else key, table

    def _own_table(self, command: str) -> Mapping[str, Any]:
        own = self._table.get(command, {})
        if not isinstance(own, Mapping):
            raise ConfigurationError(command, f"must be a table, [{command}]", source=self.label)
        return own

    def _named(self, prefix: str, table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        found: dict[str, tuple[Any, str]] = {}
        for key, value in table.items():
            if (twin := found.get(_name(key))) is not None:
                problem = f"is the same setting as {twin[1]}, which this file has too"
                raise ConfigurationError(prefix + key, problem, source=self.label)
            found[_name(key)] = value, prefix + key
        return found


def _name(key: str) -> str:
    return key.replace("-", "_")


def resolve(
    fields: Iterable[Field],
    options: Mapping[str, tuple[Any, str]],
    environ: Mapping[str, str],
    file: File | None,
    command: str,
) -> dict[str, Found]:
    """The value of each field. `options`: the options that were given, with their values and spellings.

    Raises ConfigurationError.
    """
    keys = {} if file is None else file.keys(command)
    return {field.name: _find(field, options, environ, file, keys) for field in fields}


def _find(
    field: Field,
    options: Mapping[str, tuple[Any, str]],
    environ: Mapping[str, str],
    file: File | None,
    keys: Mapping[str, tuple[Any, str]],
) -> Found:
    setting, kind = field.setting, field.setting.kind
    if field.name in options:
        given, spelling = options[field.name]
        match kind.form:
            case "switch":
                return Found(given, spelling, Layer.OPTION)
            case "several":
                read = kind.from_texts  # type: ignore[attr-defined] # kinds of that form have it
            case _:
                read = kind.from_text
        return Found(_checked(field, read, given, spelling, _ARGUMENT), spelling, Layer.OPTION)
    for name in (field.variable, *setting.variables):
        text = environ.get(name)
        if text and not _is_kubernetes(name, environ):
            return Found(_checked(field, kind.from_text, text, field.option, name), name, Layer.VARIABLE)
    if file is not None and field.name in keys:
        held, key = keys[field.name]
        source = f"{file.label}: {key}"
        return Found(_checked(field, kind.from_key, held, field.option, source), source, Layer.FILE)
    for name, value in setting.implied.items():
        if text := environ.get(name):
            found = _checked(field, kind.from_text, text, field.option, name) if value is None else value
            return Found(found, name, Layer.IMPLIED)
    return Found(field.default, "default", Layer.DEFAULT)


def _checked(field: Field, read: Any, value: Any, setting: str, source: str) -> Any:
    try:
        return read(value)
    except ValueError as error:
        # The error's own text would show the value.
        problem = "is not valid; it must be one line of text" if field.setting.is_secret else str(error)
        raise ConfigurationError(setting, problem, source=source) from None


def _is_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes has set it for a service named everycore: EVERYCORE_PORT=tcp://10.0.0.1:80."""
    if "KUBERNETES_SERVICE_HOST" not in environ:
        return False
    return name.startswith((f"{PREFIX}PORT_", f"{PREFIX}SERVICE_")) or "://" in environ[name][:6]


# --- unknown keys and variables -----------------------------------------------------------------------------


def unknown_keys(file: File, fields: Mapping[str, Sequence[Field]]) -> list[tuple[str, str]]:
    """The keys that are not settings of the commands in `fields`: each as written, with a hint."""
    found = []
    for name, written, table in file.all_keys():
        known = {
            field.name: field for command in ((table,) if table else TABLES) for field in fields[command]
        }
        if name not in known:
            found.append((written or "''", _hint(written, name, known)))
    return found


def _hint(written: str, name: str, known: Mapping[str, Field]) -> str:
    if written in _HEADS:
        return f"; a settings file of its own has its keys at the top, without [{_HEADS[written]}]"
    for field in known.values():
        if f"--{name.replace('_', '-')}" in field.setting.also:
            return f"; the key is '{field.key}'"
    return nearest(written.rpartition(".")[2], [field.key for field in known.values()])


def unknown_variables(environ: Mapping[str, str], fields: Iterable[Field]) -> list[tuple[str, str]]:
    """The variables that begin with EVERYCORE_ and are not settings: each name, with a similar known one."""
    known = OTHER_VARIABLES | {field.variable for field in fields}
    return [
        (name, nearest(name, sorted(known)))
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and not name.startswith(_OF_TESTS)
        and name not in known
        and not _is_kubernetes(name, environ)
    ]


def foreign_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables that configure uvicorn's and gunicorn's commands: each name, and what to use instead."""
    found = []
    for name in sorted(environ):
        if name.startswith(_OF_UVICORN) and environ[name]:
            found.append((name, f"; use {PREFIX}{name.removeprefix(_OF_UVICORN)}"))
        elif name == _OF_GUNICORN and environ[name]:
            found.append((name, "; use everycore.toml, or a variable for each setting"))
    return found


def nearest(word: str, known: Sequence[str]) -> str:
    """The hint `; did you mean 'workers'?`, or an empty text."""
    import difflib  # late: only an error needs it

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean '{close[0]}'?" if close else ""
