"""A program in this interpreter, as `python` runs it: a script, a folder or archive, a module, or `-c`.

Invariant: the program's `__main__` is the interpreter's own. The program's `sys.argv`, `sys.path`, `__file__`
and tracebacks are what it would see without everycore.
"""

from __future__ import annotations

import importlib.machinery
import io
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import CodeType, TracebackType
from typing import Any, Final, NamedTuple, NoReturn

from everycore.errors import EverycoreError, RoleError, consists_of
from everycore.ops.job import STATUS_NO_BOOT, STATUS_USAGE, BootReport
from everycore.ops.tracebacks import traceback_text
from everycore.worker.session import Session

#: The names that C puts into `__main__` before it runs a script. All others are the launcher's.
_PRISTINE: Final = (
    "__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__",
    "__file__", "__cached__",
)  # fmt: skip


def clear(namespace: dict[str, Any]) -> None:
    """Delete the names in `namespace`, that of `__main__`, that C does not put there."""
    for name in tuple(namespace):
        if name not in _PRISTINE:
            del namespace[name]


class Script(NamedTuple):
    """A script that was read before it is run, and the folder that `python` would put first for it."""

    path: str
    code: CodeType
    folder: str | None


def read_script(program: list[str]) -> Script | None:
    """Read the script that `program` names; None if it is a folder, an archive or a module."""
    path = _absolute(program[0])
    if not os.path.isfile(path) or pkgutil.get_importer(path) is not None:
        return None
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    return Script(path, code, folder_of(program))


def run_script(script: Script, program: list[str], namespace: dict[str, Any]) -> None:
    """Run a script that was read before, in the cleared namespace of `__main__`."""
    sys.argv[:] = program
    if script.folder is not None:
        sys.path.insert(0, script.folder)
    loader = importlib.machinery.SourceFileLoader("__main__", script.path)
    namespace.update(__file__=script.path, __doc__=None, __loader__=loader)
    exec(script.code, namespace)  # noqa: S102 - this is the program


def run_program(program: list[str], namespace: dict[str, Any], ending: ProgramEnd) -> None:
    """Run the program that the words after `python` name, in the cleared namespace of `__main__`."""
    if program[0] == "-m":
        _run_module(program, namespace, ending)
    elif program[0] == "-c":
        _run_text(program, namespace, ending)
    elif pkgutil.get_importer(path := _absolute(program[0])) is not None:
        _run_folder(program, namespace, ending)
    else:
        _run_script(path, program, namespace, ending)


def folder_of(program: list[str]) -> str | None:
    """The entry that `python` puts first in `sys.path` for the program; None if there is none."""
    if program[0] == "-c":
        return None if sys.flags.safe_path else ""
    if program[0] != "-m":
        path = _absolute(program[0])
        if pkgutil.get_importer(path) is not None:
            return path
        return None if sys.flags.safe_path else os.path.dirname(os.path.realpath(path))
    with suppress(FileNotFoundError):  # the folder no longer exists, and C adds no entry either
        return None if sys.flags.safe_path else os.getcwd()
    return None


# --- four ways to name a program ----------------------------------------------------------------------------


def _run_text(program: list[str], namespace: dict[str, Any], ending: ProgramEnd) -> None:
    sys.argv[:] = ["-c", *program[2:]]
    _put_in_front(program)
    for pristine in ("__file__", "__cached__"):
        namespace.pop(pristine, None)
    code = compile(program[1], "<string>", "exec", dont_inherit=True)
    with ending.of(code):
        exec(code, namespace)  # noqa: S102 - this is the program


def _put_in_front(program: list[str]) -> None:
    if (folder := folder_of(program)) is not None:
        sys.path.insert(0, folder)


def _run_script(path: str, program: list[str], namespace: dict[str, Any], ending: ProgramEnd) -> None:
    sys.argv[:] = program
    _put_in_front(program)
    try:
        with io.open_code(path) as file:
            data = file.read()
    except OSError as exc:
        ending.refuse(f"can't open file {path!r}: [Errno {exc.errno}] {exc.strerror}")
    loader = importlib.machinery.SourceFileLoader
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader  # type: ignore[assignment]
    namespace.update(__file__=path, __doc__=None, __loader__=loader("__main__", path))
    ending.begins_at = None
    try:
        code: CodeType | None = None
        if path.endswith(".pyc"):
            code = pkgutil.read_code(io.BytesIO(data))
        if code is None:
            code = compile(data, path, "exec", dont_inherit=True)
        ending.begins_at = code
        exec(code, namespace)  # noqa: S102 - this is the program
    except BaseException as exc:
        ending.come(exc)
        raise


def _run_folder(program: list[str], namespace: dict[str, Any], ending: ProgramEnd) -> None:
    """Run a folder or an archive that has a `__main__.py`."""
    sys.argv[:] = program
    _put_in_front(program)
    _run_as_main("__main__", namespace, ending, alter_argv=False)


def _run_module(program: list[str], namespace: dict[str, Any], ending: ProgramEnd) -> None:
    sys.argv[:] = ["-m", *program[2:]]
    _put_in_front(program)
    _run_as_main(program[1], namespace, ending, alter_argv=True)


def _run_as_main(name: str, namespace: dict[str, Any], ending: ProgramEnd, *, alter_argv: bool) -> None:
    from everycore.foreign import runpy_internals  # late: not every program needs runpy

    for pristine in ("__file__", "__cached__"):  # C calls this before `__main__` is a script
        namespace.pop(pristine, None)
    namespace["__doc__"] = None
    with ending.of(runpy_internals.CODE):
        runpy_internals.run_module_as_main(name, alter_argv=alter_argv)


def _absolute(path: str) -> str:
    """Make a path absolute as C does for a script: it is not normalized, except for a single dot."""
    if path == ".":
        return os.getcwd()
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


# --- the end ------------------------------------------------------------------------------------------------


class ProgramEnd:
    """Handles the exception that ends a program."""

    def __init__(self, session: Session | None, program: list[str]) -> None:
        self._session = session
        self._program = program
        #: The code of the first frame in tracebacks: the program's, or runpy's as with `python -m`.
        self.begins_at: CodeType | None = None

    @contextmanager
    def of(self, code: CodeType) -> Iterator[None]:
        """An exception in the block ends the program. `code`: that of the first frame in the traceback."""
        self.begins_at = code
        try:
            yield
        except BaseException as exc:
            self.come(exc)
            raise

    def refuse(self, text: str) -> NoReturn:
        """End, in Python's words, because the program does not exist."""
        text = f"{sys.executable}: {text}"
        if self._report(text, STATUS_USAGE):
            raise SystemExit(2)
        sys.stderr.write(text + "\n")
        raise SystemExit(2)

    def come(self, error: BaseException) -> None:
        """Prepare for the exit by `error`. C prints it, by `sys.excepthook`, and sets the exit status."""
        if self._session is not None and self._session.signals.is_interrupt(error):
            raise SystemExit(0) from None
        if isinstance(error, SystemExit):
            if isinstance(error.code, str) and self._report(error.code, STATUS_NO_BOOT):
                error.code = 1
            return
        tail = self._tail(error.__traceback__)
        hook = sys.excepthook
        is_told = hook is sys.__excepthook__ and self._tell(error, tail)

        def show(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
            sys.last_traceback = tail
            if not is_told:
                hook(kind, value.with_traceback(tail), tail)

        sys.excepthook = show

    def _tail(self, trace: TracebackType | None) -> TracebackType | None:
        """The traceback from the program's first frame on."""
        while trace is not None and trace.tb_frame.f_code is not self.begins_at:
            trace = trace.tb_next
        return trace

    def _tell(self, error: BaseException, tail: TracebackType | None) -> bool:
        """Let the primary print the traceback, unless the program has listened. Returns whether it will."""
        if isinstance(error, KeyboardInterrupt):
            return False
        # A worker tried to be a primary, and nothing else failed. A task group wraps the error.
        if consists_of(error, lambda inner: isinstance(inner, RoleError)):
            words = " ".join(self._program)
            return self._report(
                "this program opens a Cluster of its own, which is not possible under 'everycore run';"
                f" start it with: python {words}",
                STATUS_USAGE,
                at_any_time=True,
            )
        return self._report(traceback_text(error, tail), STATUS_NO_BOOT)

    def _report(self, text: str, status: int, *, at_any_time: bool = False) -> bool:
        if self._session is None or (self._session.readiness.has_listened and not at_any_time):
            return False
        try:
            self._session.report(BootReport(text, status).message())
        except (OSError, EverycoreError, ValueError):
            # A worker that was told to leave has closed its channel. Another worker reports the failure.
            return self._session.departure.has_begun
        return True
