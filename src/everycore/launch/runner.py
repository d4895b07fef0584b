"""The program that a worker of `everycore run` runs: any other, as `python` runs it.

    python FLAGS .../everycore/launch/__main__.py LOOP[,PORT_ZERO] SCRIPT|-m MODULE [ARGS...]

Make this interpreter what `python SCRIPT|-m MODULE [ARGS...]` would be, with sockets that listen through the
primary, and let the program go. Invariant: the program's `__main__` is the interpreter's own, as C made it;
what the program sees of itself (`sys.argv`, `sys.path`, `sys.orig_argv`, `__file__`, its tracebacks, its exit
status) is what it would see alone. What C does at the end of a program (exit status, SIGINT's death, waiting
for threads, atexit) is left to C: exceptions leave this file as they came.

How it stops: the primary takes the worker out of the rotation, then sends SIGTERM, as whoever stops a lone
process does, and SIGKILL a second after the grace. A handler of the program's own (uvicorn has one) does what
it does. Without one, ours waits until no accepted connection is open, for the grace at most, and raises
SystemExit (see `worker.signals`). The event loops of the program are its own: none of them reads our channel,
unless the program asks for `everycore.current_worker()`.

A program that ends with an exception before it has listened could not start: its traceback goes to the
primary, which prints it once and not once a worker, if the program has no `sys.excepthook` of its own.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import os
import pkgutil
import signal
import sys
from collections.abc import Collection
from functools import partial
from types import CodeType, ModuleType, TracebackType
from typing import Any, Final, NoReturn

from everycore import current
from everycore.errors import EverycoreError, RoleError, consists_of
from everycore.ops.job import STATUS_NO_BOOT, STATUS_USAGE, BootReport
from everycore.ops.tracebacks import traceback_text
from everycore.system import garbage
from everycore.system.processes import interpreter_flags
from everycore.worker.intercept import children, for_asyncio, for_libraries, hooks, installing, paths, state
from everycore.worker.session import Session
from everycore.worker.signals import print_stacks_at_quit

#: What C puts into `__main__` before it runs a script; all else is the launcher's.
_PRISTINE: Final = (
    "__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__",
    "__file__", "__cached__",
)  # fmt: skip


def main(namespace: dict[str, Any], mask: Collection[int]) -> None:
    """Run what the command line names.

    `namespace` is that of `__main__`, `mask` the signals that the program is to find blocked.
    """
    words, *program = sys.argv[1:]
    loop, _, port_zero = words.partition(",")
    sys.orig_argv[:] = [sys.executable, *interpreter_flags(), *program]
    for name in tuple(namespace):
        if name not in _PRISTINE:
            del namespace[name]
    session = current.session()
    if session is not None:
        installing.install(session)
        state.port_zero = port_zero or state.port_zero
        paths.install_on_files()
        for_libraries.install_on_libraries()
        for_asyncio.install_on_asyncio(session)
        children.install_on_children(partial(_refuse, session), lambda: session.readiness.has_listened)
        hooks.after_import("uvloop", partial(_install_on_uvloop, session))
        session.run_program()
        print_stacks_at_quit()
    if loop == "uvloop":
        for_asyncio.use_uvloop()
    ending = _Ending(session, program)
    garbage.collect_again()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if program[0] == "-m":
        _run_module(program, namespace, ending)
    elif pkgutil.get_importer(path := _absolute(program[0])) is not None:
        _run_folder(path, program, namespace, ending)
    else:
        _run_script(path, program, namespace, ending)


def _install_on_uvloop(session: Session, _: ModuleType) -> None:
    from everycore.worker.intercept.for_uvloop import install_on_uvloop

    install_on_uvloop(session)


def _refuse(session: Session, text: str) -> NoReturn:
    """End the whole service: no other worker would do better."""
    with contextlib.suppress(OSError, EverycoreError, ValueError):
        session.report(BootReport(text, STATUS_NO_BOOT, is_final=True).message())
    raise SystemExit(STATUS_NO_BOOT)


# --- three ways to name a program ---------------------------------------------------------------------------


def _run_script(path: str, program: list[str], namespace: dict[str, Any], ending: _Ending) -> None:
    sys.argv[:] = program
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
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
        exec(code, namespace)  # noqa: S102 - that is what we are here for
    except BaseException as exc:
        ending.come(exc)
        raise


def _run_folder(path: str, program: list[str], namespace: dict[str, Any], ending: _Ending) -> None:
    """Run a folder or an archive with a `__main__.py`."""
    sys.argv[:] = program
    sys.path.insert(0, path)
    _run_as_main("__main__", namespace, ending, alter_argv=False)


def _run_module(program: list[str], namespace: dict[str, Any], ending: _Ending) -> None:
    sys.argv[:] = ["-m", *program[2:]]
    if not sys.flags.safe_path:
        with contextlib.suppress(FileNotFoundError):  # the folder is gone, and C adds nothing either
            sys.path.insert(0, os.getcwd())
    _run_as_main(program[1], namespace, ending, alter_argv=True)


def _run_as_main(name: str, namespace: dict[str, Any], ending: _Ending, *, alter_argv: bool) -> None:
    from everycore.foreign import runpy_internals  # late: runpy is not what every program needs

    for pristine in ("__file__", "__cached__"):  # C has made no script of `__main__` when it calls this
        namespace.pop(pristine, None)
    namespace["__doc__"] = None
    ending.begins_at = runpy_internals.CODE
    try:
        runpy_internals.run_module_as_main(name, alter_argv=alter_argv)
    except BaseException as exc:
        ending.come(exc)
        raise


def _absolute(path: str) -> str:
    """As C makes the path of a script absolute: nothing is tidied, but for a lone dot."""
    if path == ".":
        return os.getcwd()
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


# --- how it ends --------------------------------------------------------------------------------------------


class _Ending:
    """What becomes of the exception that ends a program."""

    def __init__(self, session: Session | None, program: list[str]) -> None:
        self._session = session
        self._program = program
        #: The outermost code that a traceback shows: the program's, or runpy's as with `python -m`.
        self.begins_at: CodeType | None = None

    def refuse(self, text: str) -> NoReturn:
        """There is no such program: in python's words."""
        text = f"{sys.executable}: {text}"
        if self._report(text, STATUS_USAGE):
            raise SystemExit(2)
        sys.stderr.write(text + "\n")
        raise SystemExit(2)

    def come(self, error: BaseException) -> None:
        """`error` is on its way out. C will print it, by `sys.excepthook`, and choose the exit status."""
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
        """Let the primary print it, if the program has not got as far as to listen."""
        if isinstance(error, KeyboardInterrupt):
            return False
        # A worker wanted to be a primary, and nothing else went wrong; a task group wraps it.
        if consists_of(error, lambda inner: isinstance(inner, RoleError)):
            words = " ".join(self._program)
            return self._report(
                "this program opens a Cluster of its own, and 'everycore run' is one already;"
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
            # Told to leave before it had listened, it has said good-bye: another one's failure is told.
            return self._session.departure.has_begun
        return True
