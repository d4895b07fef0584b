"""What a mold does before it forks workers: it imports modules, and looks for what a fork would break."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from everycore.launch.running import folder_of
from everycore.servers.loading import CannotBootError, user_traceback
from everycore.system import molding


class CannotPrepareError(Exception):
    """A module cannot be imported. The text is for the user."""


#: The modules that every worker imports, whatever its program is. The mold imports them once.
_OF_WORKERS: Final = (
    "encodings.idna", "everycore.entry", "everycore.listening", "everycore.worker.boot",
    "everycore.worker.context", "everycore.worker.session", "everycore.worker.grants",
)  # fmt: skip
#: The same for workers of `everycore run`.
_OF_LAUNCHED: Final = ("everycore.launch.runner", "everycore.worker.listening.clustersocket")


def prepare(names: Sequence[str], program: Sequence[str]) -> None:
    """Import each module in `names`, and call the function after a colon.

    Meanwhile the program's own folder is the first entry of `sys.path`. Raises CannotPrepareError.
    """
    words = list(program)
    sys.argv[:] = ["-m", *words[2:]] if words[0] == "-m" else words
    users = _users_program(words)
    for name in (*_OF_WORKERS, *(() if users is words else _OF_LAUNCHED)):
        importlib.import_module(name)
    before = _in_front(users)
    try:
        for name in names:
            _prepare_one(name)
    finally:
        if before is not None and before in sys.path:
            sys.path.remove(before)


def _users_program(words: list[str]) -> list[str]:
    """The words after everycore's launcher if that is the program (`everycore run`), else all words."""
    launcher = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launch", "__main__.py"
    )
    return words[2:] if words[0] == launcher and len(words) > 2 else words


def _in_front(words: list[str]) -> str | None:
    folder = folder_of(words)
    if folder is not None:
        sys.path.insert(0, folder)
    return folder


def _prepare_one(name: str) -> None:
    module, _, function = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in function.split(".") if function else ():
            found = getattr(found, part)
        if function:
            found()
    except CannotBootError as error:
        raise CannotPrepareError(error.report.text) from None
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise CannotPrepareError(f"preload: there is no module {error.name!r} on sys.path") from None
        raise CannotPrepareError(user_traceback(error)) from None
    except BaseException as error:  # sys.exit() in a module means that it cannot be loaded
        raise CannotPrepareError(user_traceback(error)) from None


def threads_alive() -> list[str]:
    """The names of the threads that a fork would not copy, which are all but the main thread."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    return [names.get(number) or f"{comm} (not Python's)" for number, comm in molding.lone_after_fork()]


def shared_by_fork(known: Sequence[int]) -> list[str]:
    """What a fork would copy to every worker although only one process can use it: connections, event loops.

    known: everycore's own descriptors.
    """
    found = molding.connected_peers(known)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        objects = gc.get_objects()
        # The types are checked first: there are a hundred thousand objects, but only some thousand types.
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, asyncio.AbstractEventLoop)}
        loops = [one for one in objects if type(one) in kinds] if kinds else []
        found += [f"an event loop ({type(loop).__name__})" for loop in loops if not loop.is_closed()]
    return found
