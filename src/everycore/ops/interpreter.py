"""How the command line starts a worker, so that the worker imports from the same places as this process.

A worker's command line runs one of everycore's scripts, and a variable holds the module search path. The
variable is removed before any code of the program runs.

A fresh interpreter does not know what a start script has done to `sys.path` (pex, zipapp, zc.buildout, and
the wrappers of Nix and Bazel change it). So the path travels in a variable. The script that the worker runs,
which is named by its file, reads the variable before it imports anything of everycore's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Final

from everycore import role
from everycore.system.processes import interpreter_flags, program_words

#: `servers/__main__.py` and `launch/__main__.py` read it, before they can import anything of everycore's.
VARIABLE: Final = "_EVERYCORE_PATH"
#: The packages that a worker cannot start without.
_NEEDED: Final = ("everycore", "msgspec")
#: The separator of the entries. No installer makes a folder with such a name.
_BETWEEN: Final = "\n"


def command(
    package: ModuleType, in_archive: str, args: Sequence[str], flags: Sequence[str] = ()
) -> list[str]:
    """The command line that runs `__main__.py` of `package` with this interpreter.

    in_archive: the code to run instead if everycore is in a zip archive, which has no such file.
    flags: more flags for the interpreter, besides those that this one was started with.
    """
    head = [sys.executable, *interpreter_flags(), *flags]
    script = os.path.join(os.path.dirname(str(package.__file__)), "__main__.py")
    if os.path.isfile(script):
        return [*head, script, *args]
    take = f"import os, sys; sys.path[:] = os.environ.pop({VARIABLE!r}).split({_BETWEEN!r}); "
    return [*head, "-c", take + in_archive, *args]


def environment() -> dict[str, str]:
    """The variable for the command line: this process's module search path, and what a worker needs too."""
    path = search_path()
    return {VARIABLE: _BETWEEN.join([*path, *_folders_beside(path)])}


def _folders_beside(path: Sequence[str]) -> list[str]:
    """The folders of `_NEEDED` that `path` lacks, because the start script uses an import hook of its own."""
    found: list[str] = []
    for name in _NEEDED:
        if PathFinder.find_spec(name, [*path, *found]) is None:
            found.append(os.path.dirname(os.path.dirname(str(sys.modules[name].__file__))))
    return found


def search_path() -> list[str]:
    """`sys.path` without the entry that the interpreter itself has added for this program."""
    # A start script may have added anything. The import system skips entries that are not text.
    path = [entry for entry in map(_text_of, sys.path) if entry is not None]
    own = _entry_of_program(program_words())
    if own in path and not sys.flags.safe_path:
        path.remove(own)
    return path


def _text_of(entry: object) -> str | None:
    if not isinstance(entry, str) or _BETWEEN in entry:
        return None
    if entry and not os.path.exists(entry):  # relative, from before the start script changed folder
        return getattr(sys.path_importer_cache.get(entry), "path", entry)
    return entry


def _entry_of_program(words: Sequence[str]) -> str:
    """The entry for this program: its folder, with `-m` the start folder, or an archive itself."""
    if not words or words[0] == "-c":
        return ""
    if words[0] == "-m":
        return os.path.realpath(role.start_directory) if role.start_directory is not None else ""
    return os.path.dirname(os.path.realpath(words[0]))
