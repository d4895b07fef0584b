"""`--reload`: what to watch, derived from the settings and checked before anything starts."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from everycore.cli.files import FILES, why_not_there
from everycore.cli.options import FOLDER_IS_GONE, Given, Values
from everycore.config.layers import Layer
from everycore.errors import ConfigurationError
from everycore.ops.settings_file import OWN, PROJECT, VARIABLE
from everycore.system.machine import is_linux

if TYPE_CHECKING:
    from everycore.core.changes import WatchedFiles
    from everycore.ops.development import Development

#: Settings that name a file which the service writes while it runs.
_WRITTEN: Final = ("log_file", "access_logfile", "pid")
_DETAILS: Final = ("reload_dir", "reload_include", "reload_exclude", "reload_delay")


def development(watch: WatchedFiles | None, values: Values, folder: str | None) -> Development | None:
    """What reloads the service; None if nothing does. `folder`: names in the log are relative to it."""
    if watch is None:
        return None
    from everycore.ops.development import Development  # late: a wrong option must not wait for asyncio

    return Development(watch, values.found["reload_delay"].value, folder or "/")


def watched(
    given: Given, values: Values, environ: Mapping[str, str], folder: str | None, program: Iterable[str]
) -> WatchedFiles | None:
    """The files to watch; None without `--reload`. Raises ConfigurationError.

    folder: relative paths begin there. program: the absolute paths of the program's folders.
    """
    found = values.found
    if not found["reload"].value:
        for name in _DETAILS:
            if found[name].layer == Layer.OPTION:
                raise ConfigurationError(found[name].source, "has an effect with --reload only")
        return None
    if not is_linux():
        raise ConfigurationError("--reload", "needs Linux")
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload", "needs watchfiles: pip install 'everycore[standard]'")
    if folder is None:
        raise ConfigurationError("--reload", FOLDER_IS_GONE)
    from everycore.core.changes import WatchedFiles, is_in  # late: only --reload needs it

    folders = [_folder(path, folder) for path in found["reload_dir"].value]
    includes, more = _patterns("--reload-include", found["reload_include"].value, folder)
    folders = [*folders, *more] or [folder, *program]
    roots = list(dict.fromkeys(map(os.path.normpath, folders)))
    excludes, skipped = _patterns("--reload-exclude", found["reload_exclude"].value, folder)
    roots = [root for root in roots if not any(is_in(root, one) for one in skipped)]
    if not roots:
        raise ConfigurationError("--reload-exclude", "excludes every folder that --reload would watch")
    files = [os.path.join(given.here or folder, path) for path in _settings_files(given, environ)]
    files += [
        os.path.join(folder, found[name].value) for name in FILES if name in found and found[name].value
    ]
    return WatchedFiles(
        tuple(roots),
        frozenset(map(os.path.normpath, files)),
        tuple(skipped),
        tuple(includes),
        tuple(excludes),
        frozenset(_written(values, folder, roots)),
    )


def _written(values: Values, folder: str, roots: Iterable[str]) -> Iterator[str]:
    """The files that the service itself writes, by their names in the watched folders."""
    from everycore.core.changes import is_in  # late: only --reload needs it

    names = [values.found[name].value for name in _WRITTEN if name in values.found]
    paths = [os.path.join(folder, name) for name in names if name]
    paths += [f"/proc/self/fd/{number}" for number in (1, 2)]
    for path in paths:
        yield os.path.normpath(path)
        real = os.path.realpath(path)
        for root in roots:
            real_root = os.path.realpath(root)
            if is_in(real, real_root):
                yield os.path.normpath(os.path.join(root, os.path.relpath(real, real_root)))


def _settings_files(given: Given, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The settings file, or the files that would be read as one."""
    named = given.file or environ.get(VARIABLE)
    return (named,) if named else (OWN, PROJECT)


def _folder(path: str, folder: str) -> str:
    whole = os.path.join(folder, path)
    if not os.path.isdir(whole):
        what = "is a file, not a folder" if os.path.exists(whole) else why_not_there("folder", path)
        raise ConfigurationError("--reload-dir", f"{path!r} {what}" if os.path.exists(whole) else what)
    return whole


def _patterns(option: str, given: Iterable[str], folder: str) -> tuple[list[str], list[str]]:
    """Split `given` into patterns and absolute paths of folders."""
    patterns, folders = [], []
    for one in given:
        whole = os.path.normpath(os.path.join(folder, one))
        if os.path.isdir(whole):
            folders.append(whole)
            continue
        pattern = one.removeprefix("./").rstrip("/")
        if one.startswith("/") or ".." in one.split("/") or not pattern:
            raise ConfigurationError(
                option, f"must be a folder, or a pattern for files below a watched folder, not {one!r}"
            )
        patterns.append(pattern)
    return patterns, folders
