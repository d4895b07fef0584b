"""How a worker of the command line is started, so that it imports from where this process does.

That is the command line of one of our scripts, and the module search path that goes with it. Nothing is left
of it in the worker: the variable is removed before anything of the program runs.

A fresh interpreter knows nothing of what a start script has done to `sys.path` (pex, zipapp, zc.buildout, and
the wrappers of Nix and Bazel do so). So the path travels in a variable, and the script that the worker runs,
which is named by its file, takes it from there before it imports anything of ours.
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

#: Read by `servers/__main__.py` and `launch/__main__.py`, which can import nothing of ours when they do.
VARIABLE: Final = "_EVERYCORE_PATH"
#: What a worker cannot begin without.
_NEEDED: Final = ("everycore", "msgspec")
#: Stands between two entries. No installer makes a folder with such a name.
_BETWEEN: Final = "\n"


def command(
    package: ModuleType, in_archive: str, args: Sequence[str], flags: Sequence[str] = ()
) -> list[str]:
    """The command line that runs `__main__.py` of `package` with this interpreter.

    in_archive: what to execute instead where everycore lies in a zip archive, which has no such file.
    flags: for the interpreter, beside those that this one was started with.
    """
    head = [sys.executable, *interpreter_flags(), *flags]
    script = os.path.join(os.path.dirname(str(package.__file__)), "__main__.py")
    if os.path.isfile(script):
        return [*head, script, *args]
    take = f"import os, sys; sys.path[:] = os.environ.pop({VARIABLE!r}).split({_BETWEEN!r}); "
    return [*head, "-c", take + in_archive, *args]


def environment() -> dict[str, str]:
    """What goes with the command line: our module search path, and what a worker needs beside it."""
    path = search_path()
    return {VARIABLE: _BETWEEN.join([*path, *_folders_beside(path)])}


def _folders_beside(path: Sequence[str]) -> list[str]:
    """Folders of `_NEEDED` that `path` does not lead to: the start script has an import hook of its own."""
    found: list[str] = []
    for name in _NEEDED:
        if PathFinder.find_spec(name, [*path, *found]) is None:
            found.append(os.path.dirname(os.path.dirname(str(sys.modules[name].__file__))))
    return found


def search_path() -> list[str]:
    """`sys.path` without the entry that C has put there for our own program."""
    # A start script may have put anything there; the import system skips what is no text.
    path = [entry for entry in map(_text_of, sys.path) if entry is not None]
    own = _entry_of_program(program_words())
    if own in path and not sys.flags.safe_path:
        path.remove(own)
    return path


def _text_of(entry: object) -> str | None:
    if not isinstance(entry, str) or _BETWEEN in entry:
        return None
    if entry and not os.path.exists(entry):  # a relative one, from before the start script went elsewhere
        return getattr(sys.path_importer_cache.get(entry), "path", entry)
    return entry


def _entry_of_program(words: Sequence[str]) -> str:
    """The folder of the script; with `-m` the folder we were in. A folder or an archive is one itself."""
    if not words or words[0] == "-c":
        return ""
    if words[0] == "-m":
        return os.path.realpath(role.start_directory) if role.start_directory is not None else ""
    return os.path.dirname(os.path.realpath(words[0]))
