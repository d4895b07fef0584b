"""Refuses to start processes that the program wants to listen in, with a sentence that names its option.

There is one layer of workers, and it is everycore's. A process that the program starts anew (by spawn,
forkserver or subprocess, not by fork) knows nothing of the primary, and the listener that it inherits is the
worker's end of a belt. Without this module the program would be ready, and serve no client. Invariant: a
process that has nothing to do with listening is started as usual.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

from everycore.worker.intercept.hooks import after_import
from everycore.worker.intercept.state import is_installed, registry

#: The positions of arguments of `subprocess.Popen`, without `self`.
_STREAMS: Final = {"stdin": 3, "stdout": 4, "stderr": 5}
_CLOSE_FDS: Final = 7
_PASS_FDS: Final = 16

#: A package that starts such processes, a word of the command line that makes it do so, and the remedy.
_REMEDIES: Final = (
    ("fastapi_cli", "dev", "add its option --no-reload ('everycore run --reload' reloads)"),
    ("fastapi_cli", "", "leave out its option --workers (that of 'everycore run' says how many)"),
    ("uvicorn", "--reload", "leave out its option --reload ('everycore run --reload' reloads)"),
    ("uvicorn", "", "leave out its option --workers (that of 'everycore run' says how many)"),
    ("hypercorn", "", "give it the options --workers 0, and no --reload"),
    ("sanic", "", "give it the option --single-process (in code: single_process=True)"),
    ("werkzeug", "", "give it the option --no-reload (in code: use_reloader=False)"),
    ("django", "", "give it the option --noreload ('everycore run --reload' reloads)"),
)
_ELSEWHERE: Final = "make it listen in its first process (options such as --workers and --reload)"

Refuse = Callable[[str], NoReturn]


def install_on_children(refuse: Refuse, has_listened: Callable[[], bool]) -> None:
    """Install, once, after `installing.install`. `refuse` ends the program and tells the user why."""
    after_import("subprocess", functools.partial(_install_on_subprocess, refuse, has_listened))
    after_import("multiprocessing.reduction", functools.partial(_install_on_reduction, refuse))
    _install_on_descriptors(refuse)


def _install_on_subprocess(refuse: Refuse, has_listened: Callable[[], bool], module: Any) -> None:
    lib_init = module.Popen.__init__

    @functools.wraps(lib_init)
    def __init__(self: Any, *args: Any, **more: Any) -> None:  # noqa: N807 - the replaced method's name
        """As `subprocess.Popen`."""
        if is_installed() and (
            any(map(_is_listener, _inherited(args, more)))
            or (not has_listened() and _is_this_program(args[0] if args else more.get("args")))
        ):
            refuse(_sentence())
        lib_init(self, *args, **more)

    module.Popen.__init__ = __init__


def _install_on_reduction(refuse: Refuse, module: Any) -> None:
    lib_dup = module.DupFd

    def DupFd(fd: int) -> Any:  # noqa: N802 - the replaced function's name
        """As `multiprocessing.reduction.DupFd`, which pickles a socket for another process."""
        if is_installed() and _is_listener(fd):
            refuse(_sentence())
        return lib_dup(fd)

    module.DupFd = DupFd
    module.sendfds = _sending(refuse, module.sendfds)  # `send_handle` uses it


def _install_on_descriptors(refuse: Refuse) -> None:
    socket.send_fds = _sending(refuse, socket.send_fds, first=2)
    for name in ("posix_spawn", "posix_spawnp"):
        setattr(os, name, _spawning(refuse, getattr(os, name)))


def _sending(refuse: Refuse, lib_send: Callable[..., Any], *, first: int = 1) -> Callable[..., Any]:
    """Wrap a function that sends descriptors, which are the argument at position `first`, to a process."""

    @functools.wraps(lib_send)
    def send(*args: Any, **more: Any) -> Any:
        fds = args[first] if len(args) > first else more.get("fds", ())
        if is_installed() and any(map(_is_listener, map(_number, fds))):
            refuse(_sentence())
        return lib_send(*args, **more)

    return send


def _spawning(refuse: Refuse, lib_spawn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(lib_spawn)
    def spawn(*args: Any, **more: Any) -> Any:
        if is_installed() and any(map(_is_listener, filter(os.get_inheritable, registry.numbers()))):
            refuse(_sentence())
        return lib_spawn(*args, **more)

    return spawn


def _inherited(args: Sequence[Any], more: dict[str, Any]) -> Iterable[int]:
    """The descriptors that the new process would inherit and that may be listeners."""

    def given(name: str, place: int, default: Any) -> Any:
        return args[place] if len(args) > place else more.get(name, default)

    for name, place in _STREAMS.items():
        stream = given(name, place, None)
        number = stream if isinstance(stream, int) else _number(stream)
        if number >= 0:
            yield number
    passed = given("pass_fds", _PASS_FDS, ())
    yield from map(_number, passed)
    if not passed and not given("close_fds", _CLOSE_FDS, True):
        yield from filter(os.get_inheritable, registry.numbers())


def _number(thing: Any) -> int:
    """The number of a descriptor, or of an object that has one; -1 if there is none."""
    try:
        return thing if isinstance(thing, int) else int(thing.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return -1


def _is_listener(fd: int) -> bool:
    """Whether the descriptor is a socket that the program has bound to serve on."""
    try:
        intercepted = registry.find_any(fd)
    except OSError:
        return False
    return intercepted is not None and intercepted.inner is not None


def _is_this_program(words: Any) -> bool:
    """Whether the command line is that of this program, which a reloader would start again."""
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        return False
    program, *arguments = sys.argv
    *begin, main = words[: len(words) - len(arguments)] or [""]
    mains = {program, os.path.abspath(program)}
    if "-m" in sys.orig_argv:
        mains.add(sys.orig_argv[sys.orig_argv.index("-m") + 1])
    return bool(begin) and _is_python(begin[0]) and main in mains and words[len(begin) + 1 :] == arguments


def _is_python(word: str) -> bool:
    return word == sys.executable or os.path.basename(word).startswith("python")


def _sentence() -> str:
    who, remedy = _remedy(_packages_at_work(), sys.argv)
    return (
        f"{who} starts processes of its own to listen in; under 'everycore run' the workers take their"
        f" place: {remedy}"
    )


def _remedy(packages: Sequence[str], words: Sequence[str]) -> tuple[str, str]:
    """The package that starts such processes, and the remedy."""
    for package, word, remedy in _REMEDIES:
        if package in packages and (not word or word in words):
            return package, remedy
    return "this program", _ELSEWHERE


def _packages_at_work() -> list[str]:
    """The packages whose functions are on the stack."""
    import inspect  # late: very few programs come here

    found = []
    frame = inspect.currentframe()
    while frame is not None:
        found.append(str(frame.f_globals.get("__name__", "")).partition(".")[0])
        frame = frame.f_back
    return found
