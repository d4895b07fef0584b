"""Which changes of files count under `--reload`, and when a reload is due for them.

Match paths against patterns, and gather what changes until there is peace. Invariant: pure; a path is a text
from the root, and the time comes in.

The defaults and what an include and an exclude mean are uvicorn's: a pattern is matched from the right
(`*.py`, `templates/*.html`), an include without a wildcard goes before the excludes, and a default exclude
that is included is none. Different from there: `**` stands for any number of folders, and what matches a
folder excludes what is in it; else a virtual environment in `.venv` would count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from everycore.config.watched import EXCLUDES, INCLUDES

#: However busy the files are, a reload is not put off for longer than that, in seconds.
MOST_DELAY: Final = 2.0
#: So many of the changed files are named in the log.
MOST_NAMED: Final = 3

_WILD: Final = frozenset("*?[")


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the last of `parts`, of a path, are what `pattern` says; both are cut at the slashes."""
    if not pattern:
        return True
    if pattern[-1] == "**":
        return any(matches(parts[:end], pattern[:-1]) for end in range(len(parts), -1, -1))
    return bool(parts) and fnmatchcase(parts[-1], pattern[-1]) and matches(parts[:-1], pattern[:-1])


def is_in(path: str, folder: str) -> bool:
    """Whether `path` is that folder, or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def outermost(folders: Iterable[str]) -> tuple[str, ...]:
    """Those that lie in no other one."""
    found = dict.fromkeys(folders)
    return tuple(one for one in found if not any(is_in(one, other) for other in found if other != one))


class WatchedFiles(msgspec.Struct, frozen=True):
    """What is watched.

    folders: with all that is in them. files: of their own, each of which counts. skipped: folders of which
    nothing counts. includes, excludes: patterns beside the default ones. written: what the service itself
    writes, which never counts: each reload would be followed by one more.
    """

    folders: tuple[str, ...]
    files: frozenset[str] = frozenset()
    skipped: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    written: frozenset[str] = frozenset()

    def counts(self, path: str) -> bool:
        """Whether a change of the file at `path` is one of the program."""
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
    """Changes that are one reload: none has followed for `delay` seconds, or they go on for too long."""

    delay: float
    _paths: dict[str, None] = msgspec.field(default_factory=dict)
    _began: float = 0.0

    def add(self, paths: Iterable[str], now: float) -> float:
        """These have changed. Returns when the reload is due."""
        if not self._paths:
            self._began = now
        self._paths.update(dict.fromkeys(paths))
        return min(now + self.delay, self._began + max(self.delay, MOST_DELAY))

    def take(self) -> list[str]:
        """What has changed, for the reload that begins."""
        paths, self._paths = sorted(self._paths), {}
        return paths


def named(paths: Collection[str], here: str) -> str:
    """The changed files, as the log has them: by their way from `here`."""
    prefix = here.rstrip("/") + "/"
    names = [path.removeprefix(prefix) for path in paths]
    if len(names) > MOST_NAMED:
        names[MOST_NAMED - 1 :] = [f"{len(names) - MOST_NAMED + 1} more"]
    return ", ".join(names)
