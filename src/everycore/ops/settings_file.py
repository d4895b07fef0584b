"""The settings file: `everycore.toml`, or the table `[tool.everycore]` of `pyproject.toml`.

This module finds and reads it; `config` interprets the keys. Invariant: a file that is named must exist, and
a file that cannot be read is a ConfigurationError that says why. A reload makes the same call again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from everycore.config.layers import File
from everycore.errors import ConfigurationError
from everycore.system.plain_files import open_plain, reason_of

VARIABLE: Final = "EVERYCORE_CONFIG"
OWN: Final = "everycore.toml"
PROJECT: Final = "pyproject.toml"
OPTION: Final = "--config"
#: The endings of other servers' settings files.
_NOT_TOML: Final = (".py", ".js", ".cjs", ".mjs", ".json", ".yaml", ".yml", ".ini")
#: The most bytes of a settings file, or of a pyproject.toml: the parser is slow.
MOST_BYTES: Final = 1 << 20


def read_settings_file(named: str | None, environ: Mapping[str, str], here: str | None) -> File | None:
    """Read the first of: `--config`, `EVERYCORE_CONFIG`, everycore.toml, the table of pyproject.toml.

    Returns None if there is none. Relative paths begin at `here`. Raises ConfigurationError.
    """
    if named is not None:
        return _read_named(named, "argument", here)
    if from_environment := environ.get(VARIABLE):
        return _read_named(from_environment, VARIABLE, here)
    # A dangling link counts as a file: its settings must not be lost silently.
    if os.path.lexists(os.path.join(here or "", OWN)):
        return File(OWN, _load(OWN, "argument", here))
    if os.path.lexists(os.path.join(here or "", PROJECT)):
        return _of_project(PROJECT, "argument", here)
    return None


def passed_over(file: File, here: str | None) -> list[str]:
    """A sentence about the table of pyproject.toml if it exists but `file` overrides it."""
    if file.label != OWN:
        return []
    try:
        with open_plain(os.path.join(here or "", PROJECT)) as project:
            has_table = b"[tool.everycore" in project.read(MOST_BYTES)
    except OSError:
        return []
    return [f"{OWN} is read, but [tool.everycore] in {PROJECT} is not"] if has_table else []


def _read_named(path: str, source: str, here: str | None) -> File:
    if path.endswith(_NOT_TOML):
        problem = f"reads TOML; write the settings of {path!r} into {OWN}, by the names of `everycore config`"
        raise ConfigurationError(OPTION, problem, source=source)
    if os.path.basename(path) == PROJECT:
        found = _of_project(path, source, here)
        if found is None:
            raise ConfigurationError(OPTION, f"there is no [tool.everycore] in {path!r}", source=source)
        return found
    return File(path, _load(path, source, here))


def _of_project(path: str, source: str, here: str | None) -> File | None:
    tools = _load(path, source, here).get("tool")
    table = tools.get("everycore") if isinstance(tools, dict) else None
    if table is None:
        return None
    label = f"{path} [tool.everycore]"
    if not isinstance(table, dict):
        raise ConfigurationError("tool.everycore", "must be a table", source=path)
    return File(label, table)


def _load(path: str, source: str, here: str | None) -> dict[str, Any]:
    try:
        with open_plain(os.path.join(here or "", path)) as file:
            return parsed(file.read(MOST_BYTES + 1), path, source)
    except OSError as error:
        problem = f"cannot read {path!r}: {reason_of(error)}"
    raise ConfigurationError(OPTION, problem, source=source)


def parsed(content: bytes, path: str, source: str) -> dict[str, Any]:
    """Parse the content of a file. Raises ConfigurationError, and nothing else."""
    import tomllib  # late: most services have no settings file

    if len(content) > MOST_BYTES:
        raise ConfigurationError(OPTION, f"{path!r} has more than {MOST_BYTES} bytes", source=source)
    try:
        return tomllib.loads(content.decode())
    except tomllib.TOMLDecodeError as error:
        problem = f"{path!r} is not TOML: {error}"
    except UnicodeDecodeError:
        problem = f"{path!r} is not TOML: it is not UTF-8"
    except RecursionError:
        problem = f"{path!r} cannot be read: its values are nested too deeply"
    except ValueError as error:  # int() refuses thousands of digits
        problem = f"{path!r} cannot be read: {error}"
    raise ConfigurationError(OPTION, problem, source=source)
