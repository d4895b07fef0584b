"""The program that a worker of `everycore run` runs: any other program, as `python` runs it.

    python FLAGS .../everycore/launch/__main__.py LOOP[,PORT_ZERO] SCRIPT|-m MODULE [ARGS...]

This module makes the interpreter what `python SCRIPT|-m MODULE [ARGS...]` would be, with sockets that listen
through the primary, and then runs the program. Invariant: the program's `__main__` is the interpreter's own,
as C made it. What the program sees of itself (`sys.argv`, `sys.path`, `sys.orig_argv`, `__file__`, its
tracebacks, its exit status) is what it would see without everycore. C itself ends the program (exit status,
death by SIGINT, waiting for threads, atexit): exceptions leave this file unchanged.

How the program stops: the primary gives the worker no more connections, and sends SIGTERM, as a service
manager does. One second after the grace it sends SIGKILL. If the program has a handler of its own (uvicorn
has one), that handler runs. Otherwise everycore's handler waits until no accepted connection is open, for the
grace at most, and raises SystemExit (see `worker.signals`). The event loops belong to the program. None of
them reads everycore's channel, unless the program calls `everycore.current_worker()`.

A program that ends with an exception before it has listened could not start. Unless the program has a
`sys.excepthook` of its own, the primary prints the traceback, once instead of once for each worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from everycore import current, forks
from everycore.errors import EverycoreError
from everycore.launch.running import ProgramEnd, clear, run_program
from everycore.ops.job import STATUS_NO_BOOT, BootReport
from everycore.system import garbage
from everycore.system.processes import interpreter_flags
from everycore.worker.intercept import children, for_asyncio, for_libraries, hooks, installing, paths, state
from everycore.worker.session import Session
from everycore.worker.signals import print_stacks_at_quit


def main(namespace: dict[str, Any], mask: Collection[int]) -> None:
    """Run the program that the command line names.

    `namespace` is that of `__main__`. `mask` holds the signals that are blocked for the program.
    """
    words, *program = sys.argv[1:]
    loop, _, port_zero = words.partition(",")
    sys.orig_argv[:] = [sys.executable, *interpreter_flags(), *program]
    clear(namespace)
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
    garbage.collect_again()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ending = ProgramEnd(session, program)
    with ending.of(forks.run_hooks.__code__):
        forks.run_hooks()
    run_program(program, namespace, ending)


def _install_on_uvloop(session: Session, _: ModuleType) -> None:
    from everycore.worker.intercept.for_uvloop import install_on_uvloop

    install_on_uvloop(session)


def _refuse(session: Session, text: str) -> NoReturn:
    """End the whole service: the other workers would fail in the same way."""
    from everycore.system.sightings import descendants_of  # late: very few programs come here

    with contextlib.suppress(OSError, EverycoreError, ValueError):
        session.report(BootReport(text, STATUS_NO_BOOT, is_final=True).message())
    for child in descendants_of(os.getpid()):  # they would wait for ever for the listener
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    if threading.current_thread() is not threading.main_thread():
        os._exit(STATUS_NO_BOOT)  # the main thread may wait for ever too
    raise SystemExit(STATUS_NO_BOOT)
