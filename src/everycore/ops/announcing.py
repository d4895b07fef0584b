"""Tells the service manager the state: READY, RELOADING, STOPPING, STATUS, WATCHDOG (sd_notify(3)).

A primary that hangs sends nothing, which is how systemd notices (`WatchdogSec=`). A manager that can keep
sockets is given the listeners. Invariant: READY is sent once the service serves, and again after each
RELOADING, even if the reload failed. Nothing but STOPPING follows STOPPING.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

from everycore.events import Event, Exited, Ready, ReloadBegan, ReloadEnded
from everycore.system.notify import Notifier, notifier

if TYPE_CHECKING:
    from everycore.ops.storing import ListenerStore
    from everycore.pool import Pool

#: How long a socket that the previous primary has stored waits for a worker to listen on it, in seconds.
GIVE_UP_AFTER: Final = 30.0


class Announcer:
    """The notifications of one pool. Without a service manager it sends none."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool = pool
        self._name = name
        self._notifier: Notifier | None = notifier(os.environ, os.getpid())
        self._was_ready = False
        self._is_stopping = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._passed = pool.cluster._distribution.passed
        self._store: ListenerStore | None = None
        self._giving_up: asyncio.TimerHandle | None = None
        if self._notifier is not None and self._notifier.room:
            from everycore.ops.storing import ListenerStore  # late: few managers keep anything

            self._store = self._passed.store = ListenerStore(self._notifier, lambda: self._passed.unclaimed)

    def begin(self) -> None:
        """Begin to notify: the pool is open."""
        if self._notifier is None:
            return
        for kind in (Ready, Exited, ReloadBegan, ReloadEnded):
            self._pool.on(kind, self._on_event)
        self._pool._keeper.on_refused = self._refused
        if self._notifier.watchdog:
            self._feed(self._notifier, asyncio.get_running_loop())

    def stopping(self) -> None:
        """Notify that the service is stopping. Does nothing if it has done so already."""
        if not self._is_stopping:
            self._is_stopping = True
            if self._store is not None:
                self._store.stop()
            self._say("STOPPING=1", f"STATUS={self._name}: stopping")

    def close(self) -> None:
        """Notify that the service is stopping, and close the socket: the service has ended."""
        self.stopping()
        for timer in (self._watchdog, self._giving_up):
            if timer is not None:
                timer.cancel()
        if self._notifier is not None:
            self._notifier.close()

    def _on_event(self, event: Event) -> None:
        if self._is_stopping:
            return
        match event:
            case Ready() if not self._was_ready:
                self._was_ready = True
                self._say("READY=1", self._status())
                if self._passed.unclaimed:
                    loop = asyncio.get_running_loop()
                    self._giving_up = loop.call_later(GIVE_UP_AFTER, self._give_up)
            case ReloadBegan() if self._was_ready:
                self._reloading()
            case ReloadEnded() if self._was_ready:
                self._say("READY=1", self._status())
            case _:
                self._say(self._status())

    def _give_up(self) -> None:
        if not self._is_stopping:
            self._passed.give_up()

    def _refused(self) -> None:
        """Answer a refused reload: systemd asked for it (`Type=notify-reload`) and waits for its end."""
        if self._was_ready and not self._is_stopping:
            self._reloading()
            self._say("READY=1", self._status())

    def _reloading(self) -> None:
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", self._status())

    def _status(self) -> str:
        ready = sum(worker.is_ready for worker in self._pool.workers.values())  # more, in a reload
        text = f"{min(ready, self._pool.size)} of {self._pool.size} workers ready"
        snapshot = self._pool.snapshot()
        reload = snapshot.reload
        if reload is not None and reload.state != "done":
            text += "; reloading" if reload.state == "running" else "; the last reload failed"
        if snapshot.failed_slots:
            text += f"; failed slots: {', '.join(map(str, snapshot.failed_slots))}"
        return f"STATUS={self._name}: {text}"

    def _feed(self, to: Notifier, loop: asyncio.AbstractEventLoop) -> None:
        """Feed the watchdog twice within its time, as sd_watchdog_enabled(3) advises."""
        to.tell("WATCHDOG=1")
        self._watchdog = loop.call_later(to.watchdog / 2, self._feed, to, loop)

    def _say(self, *lines: str) -> None:
        if self._notifier is not None:
            self._notifier.tell(*lines)
