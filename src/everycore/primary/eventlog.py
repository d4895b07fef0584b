"""Numbers and dates the events of one cluster, and emits them.

Invariant: `seq` counts up from 1 without a gap, in the order in which events are made. The listeners of a
worker get an event about it before those of the cluster, as in Node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from everycore.aio.emitter import Emitter
from everycore.events import Event, Message, WorkerEvent
from everycore.worker_face import Worker


class EventLog:
    """The events of one cluster. `listeners` get all of them except messages."""

    def __init__(self) -> None:
        self.listeners = Emitter()
        #: Returns the date, in seconds since the epoch.
        self.now: Callable[[], float] = time.time
        self._seq = 0

    def next(self) -> tuple[int, float]:
        """The number and the date of the event that is being made."""
        self._seq += 1
        return self._seq, self.now()

    def emit(self, event_type: Callable[..., Event], /, **fields: Any) -> None:
        """Emit an event that concerns no single worker."""
        seq, at = self.next()
        self.listeners.emit(event_type(seq=seq, at=at, **fields))

    def emit_about(self, worker: Worker, event_type: Callable[..., WorkerEvent], /, **fields: Any) -> None:
        """Emit an event about `worker`."""
        seq, at = self.next()
        event = event_type(seq=seq, at=at, worker=worker, **fields)
        worker._driver.listeners.emit(event)
        self.listeners.emit(event)


class WorkerLog:
    """The events about one worker, as a part of its cluster's. `listeners` are those of this worker alone."""

    def __init__(self, log: EventLog, worker: Worker) -> None:
        self.listeners = Emitter()
        self._log = log
        self._worker = worker

    def emit(self, event_type: Callable[..., WorkerEvent], /, **fields: Any) -> None:
        """Emit an event about the worker."""
        seq, at = self._log.next()
        event = event_type(seq=seq, at=at, worker=self._worker, **fields)
        self.listeners.emit(event)
        self._log.listeners.emit(event)

    def message(self, value: Any, handle: Any) -> Message:
        """Make the event of a message from the worker. This emits nothing: messages have own listeners."""
        seq, at = self._log.next()
        return Message(seq=seq, at=at, worker=self._worker, message=value, handle=handle)
