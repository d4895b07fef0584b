"""The mold: imports, checks whether a fork would do harm, and forks workers until its socket is closed.

A mold is neither primary nor worker. It runs no loop, and holds a listener, belt or channel only while it
passes them on. Invariant: `main` returns in a worker, when its program has ended. In the mold it never
returns.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, Final, NoReturn

from everycore import current, forks
from everycore.core import mold_wire
from everycore.core.mold_wire import MakeWorker, MoldTicket
from everycore.launch.running import ProgramEnd, Script, clear, read_script, run_program, run_script
from everycore.mold import memory, newborn, preparing
from everycore.mold.preparing import CannotPrepareError
from everycore.ops.job import STATUS_NO_BOOT
from everycore.system import garbage, molding, processes
from everycore.system.descriptors import close_all, fill_standard_streams
from everycore.system.processes import interpreter_flags

VARIABLE: Final = "_EVERYCORE_MOLD"
#: The exit status if the primary is gone: EX_TEMPFAIL of sysexits.h.
_ORPHANED: Final = 75
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def main(namespace: dict[str, Any]) -> None:
    """Be a mold. In each worker, run the program of the command line. `namespace` is that of `__main__`."""
    began = time.monotonic()
    ticket = mold_wire.read_mold_ticket(os.environ.pop(VARIABLE))
    if not processes.die_with_parent(ticket.primary):
        os._exit(_ORPHANED)
    program = sys.argv[1:]
    sys.orig_argv[:] = [sys.executable, *interpreter_flags(), *program]
    fill_standard_streams()
    current.be_mold()
    signal.signal(signal.SIGINT, _leave_to_primary)
    mold = _Mold(ticket, program)
    script = mold.prepare(began)
    order, fds = mold.serve()
    # This process is a worker from here on.
    if signal.getsignal(signal.SIGINT) is _leave_to_primary:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    newborn.become_worker(order, fds)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    clear(namespace)
    if script is not None:
        run_script(script, program, namespace)
        return
    if not newborn.is_ours(program):
        forks.run_hooks()
    run_program(program, namespace, ProgramEnd(None, program))


def _leave_to_primary(_number: int, _: FrameType | None) -> None:
    """Do nothing: Ctrl-C reaches the whole process group. SIG_IGN would be inherited by new processes."""


class _Mold:
    """The mold's socket, its descriptors, and its orders."""

    def __init__(self, ticket: MoldTicket, program: list[str]) -> None:
        self._ticket = ticket
        self._program = program
        fd, _ = ticket.socket
        os.set_inheritable(fd, False)
        os.set_inheritable(ticket.leash[0], False)
        self._socket = socket.socket(fileno=fd)
        self._known = (fd, ticket.leash[0])
        # These descriptors are for the workers. If the mold held them, a pipe would never end. /dev/null
        # keeps their numbers occupied.
        for number in ticket.pass_fds:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, number, inheritable=False)
            os.close(null)

    def prepare(self, began: float) -> Script | None:
        """Import everything. Returns the script if the program is everycore's own.

        If something cannot be imported, this tells the primary and exits.
        """
        try:
            preparing.prepare(self._ticket.preload, self._program)
            script = read_script(self._program) if newborn.is_ours(self._program) else None
        except CannotPrepareError as error:
            self._say(mold_wire.MoldCannotPrepare(str(error)))
            _flush()
            os._exit(STATUS_NO_BOOT)
        threads = preparing.threads_alive()
        shared = preparing.shared_by_fork(self._known)
        garbage.collect_again()
        memory.settle()
        self._say(mold_wire.MoldIsPrepared(time.monotonic() - began, tuple(threads), tuple(shared)))
        return script

    def serve(self) -> tuple[MakeWorker, list[int]]:
        """Fork workers. Returns only in a worker: the order that it was forked for, and the descriptors."""
        while True:
            try:
                packet = molding.receive_with(self._socket, mold_wire.LONGEST, mold_wire.MOST_DESCRIPTORS)
            except InterruptedError:
                continue
            if packet is None:
                _end()
            data, fds = packet
            order = mold_wire.decode_to_mold(data)
            _flush()
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            problem = molding.fork_for(self._ticket.primary, self._say_there)
            if problem is None:
                self._socket.close()
                close_all((self._ticket.leash[0],))
                return order, fds
            close_all(fds)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            self._say(mold_wire.MoldHasAnswered(problem))

    def _say_there(self) -> None:
        """Tell the primary, in a new worker, that it is the primary's child."""
        if self._ticket.is_confined:
            if os.getsid(0) != os.getpid():  # this is called twice
                os.setsid()
        elif self._ticket.new_group:
            os.setpgid(0, 0)
        molding.send_with(self._socket, mold_wire.encode(mold_wire.WorkerIsThere()), ())

    def _say(self, message: mold_wire.FromMold) -> None:
        try:
            molding.send_with(self._socket, mold_wire.encode(message), ())
        except OSError:  # the primary is gone
            _end()


def _flush() -> None:
    """Flush the streams: every worker would write what a buffer holds at a fork."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or without a reader, or None
            continue


def _end() -> NoReturn:
    """Exit without the functions that the application has registered with atexit: they are for workers."""
    os._exit(0)
