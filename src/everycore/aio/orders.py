"""Signals that command a pool: the edge of `core.signals`.

Handle each of these signals by the operation of the pool that the table names. Invariant: after the block the
handlers are those from before it. TERM, INT and QUIT are handled elsewhere (`aio.shutdown`, `ops.service`).

* A signal that was ignored when the block was entered stays ignored. This concerns HUP under nohup above all.
* HUP means that the terminal is gone if there was a controlling terminal and there is none any more. The pool
  is then stopped, as the system's default action would end it.
* TTIN and TTOU are left alone if there is a controlling terminal: the kernel sends them for job control.
  (gunicorn, which these signals come from, handles them everywhere.)
* TSTP, which Ctrl-Z sends, is handled because workers that lead their own process groups would run on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from everycore.aio.pausing import PausableLoop
from everycore.aio.signals import install, restore
from everycore.core import signals
from everycore.core.signals import Act, Signal
from everycore.system import logfiles, pausing
from everycore.system.terminal import has_terminal

log = logging.getLogger("everycore.aio")


class Commanded(Protocol):
    """The part of a pool that this module needs."""

    @property
    def size(self) -> int:
        """How many workers the pool keeps alive; 0 once it ends."""

    def order_reload(self) -> object:
        """Replace all workers. The result is logged."""

    def scale(self, count: int) -> None:
        """Keep `count` workers from now on."""

    def stop(self) -> None:
        """Stop all workers and keep none."""

    def reopen_logs(self) -> None:
        """Have every worker reopen its log files."""

    def pause(self) -> None:
        """Stop the processes of the workers, until `resume`."""

    def resume(self) -> None:
        """Continue these processes. Does nothing to one that runs."""


@contextmanager
def obey_signals(loop: asyncio.AbstractEventLoop, pool: Commanded) -> Iterator[None]:
    """Command `pool` by signals within the block. Does nothing outside the main thread."""
    orders = _Orders(loop, pool)
    orders.install()
    try:
        yield
    finally:
        orders.restore()


class _Orders:
    """The signal handlers of one pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Commanded) -> None:
        self._loop = loop
        self._pool = pool
        self._had_terminal = has_terminal()
        self._previous: dict[signal.Signals, Any] = {}
        #: Set from a TSTP until the pause begins or a CONT arrives.
        self._pausing: asyncio.Handle | None = None

    def install(self) -> None:
        handlers = {}
        for what in signals.heard(at_terminal=self._had_terminal):
            number = signal.Signals[what.value]
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = partial(self._hear, number, what)
        self._previous = install(self._loop, handlers)
        if signal.SIGCONT in self._previous and isinstance(self._loop, PausableLoop):
            self._stop_clock_of(self._loop)

    @staticmethod
    def _stop_clock_of(loop: PausableLoop) -> None:
        """Set a Python signal handler, which runs before the loop looks at the clock for timers that are due.

        The loop's own handler is a no-op: the byte written by the C handler wakes the loop.
        """
        signal.signal(signal.SIGCONT, lambda _number, _frame: loop.stand_still())
        signal.siginterrupt(signal.SIGCONT, False)

    def restore(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
        restore(self._loop, self._previous)

    def _hear(self, number: signal.Signals, what: Signal) -> None:
        where = signals.surroundings(
            had_terminal=self._had_terminal, has_terminal=has_terminal(), is_ending=self._pool.size == 0
        )
        self._steps[signals.POOL[what, where]](self, number)

    # --- steps --------------------------------------------------------------------------------------------

    def _reload(self, number: signal.Signals) -> None:
        log.info("%s: reloading", number.name)
        self._pool.order_reload()

    def _stop(self, number: signal.Signals) -> None:
        log.info("%s: the terminal is gone; stopping", number.name)
        self._pool.stop()

    def _reopen(self, number: signal.Signals) -> None:
        logfiles.reopen()
        self._pool.reopen_logs()
        log.info("%s: the log files are opened anew", number.name)

    def _grow(self, number: signal.Signals) -> None:
        self._scale(number, self._pool.size + 1)

    def _shrink(self, number: signal.Signals) -> None:
        if self._pool.size > 1:
            self._scale(number, self._pool.size - 1)
        else:
            log.warning("%s: ignored, a pool keeps at least one worker", number.name)

    def _scale(self, number: signal.Signals, count: int) -> None:
        log.info("%s: scaling from %d to %d", number.name, self._pool.size, count)
        self._pool.scale(count)

    def _pause(self, number: signal.Signals) -> None:
        # Pause in the next turn: a CONT that has arrived meanwhile is handled first, and no other may follow.
        if self._pausing is None:
            self._pausing = self._loop.call_soon(self._pause_now, number)

    def _pause_now(self, number: signal.Signals) -> None:
        self._pausing = None
        if not pausing.can_stop():
            log.warning(
                "%s: ignored, since the kernel does not stop process 1 of a container; pause the container",
                number.name,
            )
            return
        log.info("%s: stopped, with the workers, until SIGCONT", number.name)
        begun = time.monotonic()
        self._pool.pause()
        try:
            pausing.stop()
        finally:
            if isinstance(self._loop, PausableLoop):
                self._loop.stand_still()  # also here, since SIGCONT may be ignored
            self._pool.resume()
        log.info("continued, with the workers, after %.1f s", time.monotonic() - begun)

    def _resume(self, _: signal.Signals) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        self._pool.resume()

    _steps: Final[Mapping[Act, Callable[[_Orders, signal.Signals], None]]] = {
        Act.RELOAD: _reload,
        Act.STOP: _stop,
        Act.REOPEN: _reopen,
        Act.RESERVE: lambda _, number: log.info(
            "%s: ignored, it does nothing yet; SIGHUP reloads", number.name
        ),
        Act.GROW: _grow,
        Act.SHRINK: _shrink,
        Act.PAUSE: _pause,
        Act.RESUME: _resume,
        Act.IGNORE: lambda _, number: log.info("%s: ignored, the workers are being stopped", number.name),
    }
