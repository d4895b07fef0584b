"""Which file changes count under `--reload`, and when a reload is due for them.

Match paths against patterns, and collect changes until no more follow. Invariant: pure; paths are absolute,
as text, and the time is an argument.

The defaults and the meaning of includes and excludes are uvicorn's. A pattern is matched from the right
(`*.py`, `templates/*.html`). An include without a wildcard takes precedence over the excludes. A default
exclude that is also included has no effect.

Two things differ from uvicorn: `**` stands for any number of folders, and a pattern that matches a folder
excludes everything in it. Otherwise the files of a virtual environment in `.venv` would count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from everycore.config.watched import EXCLUDES, INCLUDES

#: Seconds for which a reload is put off at most, however often files change.
MOST_DELAY: Final = 2.0
#: How many of the changed files the log names.
MOST_NAMED: Final = 3

_WILD: Final = frozenset("*?[")


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the last of `parts` of a path match `pattern`. Both are split at the slashes."""
    if not pattern:
        return True
    if pattern[-1] == "**":
        return any(matches(parts[:end], pattern[:-1]) for end in range(len(parts), -1, -1))
    return bool(parts) and fnmatchcase(parts[-1], pattern[-1]) and matches(parts[:-1], pattern[:-1])


def is_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def outermost(folders: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that lie in no other one."""
    found = dict.fromkeys(folders)
    return tuple(one for one in found if not any(is_in(one, other) for other in found if other != one))


class WatchedFiles(msgspec.Struct, frozen=True):
    """The files to watch.

    folders: watched with everything in them.
    files: single files, each of which counts.
    skipped: folders in which nothing counts.
    includes, excludes: patterns in addition to the default ones.
    written: files that the service itself writes. They never count: each reload would cause another one.
    """

    folders: tuple[str, ...]
    files: frozenset[str] = frozenset()
    skipped: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    written: frozenset[str] = frozenset()

    def counts(self, path: str) -> bool:
        """Whether a change of the file at `path` calls for a reload."""
        if path in self.written or path in self.files:
            return path not in self.written
        parts = path.split("/")
        includes = [*(one for one in INCLUDES if one not in self.excludes), *self.includes]
        found = [one for one in includes if matches(parts, one.split("/"))]
        roots = [folder for folder in self.folders if is_in(path, folder)]
        if not found or not roots:
            return False
        if any(_WILD.isdisjoint(one) for one in found):
            return True
        return any(not self._is_excluded(path, folder) for folder in roots)

    def enters(self, folder: str) -> bool:
        """Whether a file in `folder` may count."""
        return any(not self._is_excluded(folder, root) for root in self.folders if is_in(folder, root))

    def _is_excluded(self, path: str, root: str) -> bool:
        """Whether `path`, or a folder between it and the watched `root`, is excluded."""
        if any(is_in(path, folder) for folder in self.skipped):
            return True
        excludes = [one for one in EXCLUDES if one not in self.includes]
        patterns = [one.split("/") for one in (*excludes, *self.excludes)]
        parts, least = path.split("/"), len(root.rstrip("/").split("/"))
        return any(
            matches(parts[:end], pattern) for end in range(len(parts), least, -1) for pattern in patterns
        )


class Batch(msgspec.Struct):
    """The changes of one reload, due `delay` seconds after the last, or once they go on for too long."""

    delay: float
    _paths: dict[str, None] = msgspec.field(default_factory=dict)
    _began: float = 0.0

    def add(self, paths: Iterable[str], now: float) -> float:
        """Record that `paths` have changed. Returns the time at which the reload is due."""
        if not self._paths:
            self._began = now
        self._paths.update(dict.fromkeys(paths))
        return min(now + self.delay, self._began + max(self.delay, MOST_DELAY))

    def take(self) -> list[str]:
        """Return the changed paths, for the reload that begins, and forget them."""
        paths, self._paths = sorted(self._paths), {}
        return paths


def named(paths: Collection[str], here: str) -> str:
    """Return the changed files as the log names them: relative to `here`."""
    prefix = here.rstrip("/") + "/"
    names = [path.removeprefix(prefix) for path in paths]
    if len(names) > MOST_NAMED:
        names[MOST_NAMED - 1 :] = [f"{len(names) - MOST_NAMED + 1} more"]
    return ", ".join(names)
