"""Signals that command a pool: HUP reloads, TTIN and TTOU scale by one.

Turn each of these signals into an operation of the pool. Invariant: after the block the handlers are those
from before it. INT and TERM are somebody else's (`aio.shutdown`, `ops.service`).

* HUP that was ignored when the block was entered, as by nohup, stays ignored.
* HUP may also mean that the terminal is gone. It does where there was a controlling terminal and is none any
  more; then the pool is stopped, as the system's default would end it.
* TTIN and TTOU are left alone where there is a controlling terminal: the kernel sends them for job control.
  (gunicorn, whose signals these are, takes them everywhere.)
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from everycore.aio import signals
from everycore.system.terminal import has_terminal

log = logging.getLogger("everycore.aio")


class Commanded(Protocol):
    """What keeps the workers of a pool, as this module needs it."""

    @property
    def size(self) -> int:
        """How many workers are to be alive; 0 once the pool ends."""

    def order_reload(self) -> object:
        """Replace all workers; what comes of it is logged."""

    def scale(self, count: int) -> None:
        """Keep so many workers from now on."""

    def stop(self) -> None:
        """No workers any more."""


@contextmanager
def obey_signals(loop: asyncio.AbstractEventLoop, pool: Commanded) -> Iterator[None]:
    """Command `pool` by signals. In another thread than the main one nothing is done."""
    previous = signals.install(loop, _handlers(pool, has_terminal()))
    try:
        yield
    finally:
        signals.restore(loop, previous)


def _handlers(pool: Commanded, at_terminal: bool) -> Mapping[signal.Signals, Callable[[], None]]:
    handlers: dict[signal.Signals, Callable[[], None]] = {}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = partial(_hang_up, pool, at_terminal)
    if not at_terminal:
        handlers[signal.SIGTTIN] = partial(_scale, pool, signal.SIGTTIN, 1)
        handlers[signal.SIGTTOU] = partial(_scale, pool, signal.SIGTTOU, -1)
    return handlers


def _hang_up(pool: Commanded, was_at_terminal: bool) -> None:
    if was_at_terminal and not has_terminal():
        log.info("SIGHUP: the terminal is gone; stopping")
        pool.stop()
    elif _is_alive(pool, signal.SIGHUP):
        log.info("SIGHUP: reloading")
        pool.order_reload()


def _scale(pool: Commanded, number: signal.Signals, by: int) -> None:
    if not _is_alive(pool, number):
        return
    count = pool.size + by
    if count < 1:
        log.warning("%s: there is one worker, and not fewer than that", number.name)
        return
    log.info("%s: scaling from %d to %d", number.name, pool.size, count)
    pool.scale(count)


def _is_alive(pool: Commanded, number: signal.Signals) -> bool:
    if pool.size == 0:
        log.info("%s: ignored, the workers are being stopped", number.name)
    return pool.size > 0
