"""What a mold does before it makes workers: import, and look for what a fork would break."""

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
    """Something cannot be imported; the text is for the user."""


#: What each worker of everycore's imports by itself, whatever its program is: here it is imported once.
_OF_WORKERS: Final = (
    "encodings.idna", "everycore.entry", "everycore.listening", "everycore.worker.boot",
    "everycore.worker.context", "everycore.worker.session", "everycore.worker.grants",
)  # fmt: skip
#: The same, of one that `everycore run` has started.
_OF_LAUNCHED: Final = ("everycore.launch.runner", "everycore.worker.listening.clustersocket")


def prepare(names: Sequence[str], program: Sequence[str]) -> None:
    """Import each module of `names`, and call what stands behind a colon.

    The program's own folder comes first on `sys.path` meanwhile. Raises CannotPrepareError.
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
    """The words behind our own launcher, where that is the program (`everycore run`)."""
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
    except BaseException as error:  # sys.exit() in a module is a failure to load it as any other
        raise CannotPrepareError(user_traceback(error)) from None


def threads_alive() -> list[str]:
    """The threads that a fork would not copy, by name; the main one is no such thread."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    return [names.get(number) or f"{comm} (not Python's)" for number, comm in molding.lone_after_fork()]


def shared_by_fork(known: Sequence[int]) -> list[str]:
    """What every worker would have a copy of, and only one can use: connections, and event loops.

    known: descriptors of our own.
    """
    found = molding.connected_peers(known)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        objects = gc.get_objects()
        # By their types first: there are a hundred thousand objects, of some thousand types.
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, asyncio.AbstractEventLoop)}
        loops = [one for one in objects if type(one) in kinds] if kinds else []
        found += [f"an event loop ({type(loop).__name__})" for loop in loops if not loop.is_closed()]
    return found
