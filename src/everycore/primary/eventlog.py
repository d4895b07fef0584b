"""Numbers and dates the events of one cluster, and tells them.

Invariant: `seq` counts up from 1 without a gap, in the order in which events are made. An event about a
worker is told to that worker's own listeners first, then to the cluster's, as in Node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from everycore.aio.emitter import Emitter
from everycore.events import Event, Message, WorkerEvent
from everycore.worker_face import Worker


class EventLog:
    """The events of one cluster. `listeners` get all of them, but messages."""

    def __init__(self) -> None:
        self.listeners = Emitter()
        #: The date, in seconds since the epoch.
        self.now: Callable[[], float] = time.time
        self._seq = 0

    def next(self) -> tuple[int, float]:
        """The number and the date of the event that is made now."""
        self._seq += 1
        return self._seq, self.now()

    def emit(self, event_type: Callable[..., Event], /, **fields: Any) -> None:
        """Tell of something that concerns no single worker."""
        seq, at = self.next()
        self.listeners.emit(event_type(seq=seq, at=at, **fields))

    def emit_about(self, worker: Worker, event_type: Callable[..., WorkerEvent], /, **fields: Any) -> None:
        """Tell of something that happened to `worker`."""
        seq, at = self.next()
        event = event_type(seq=seq, at=at, worker=worker, **fields)
        worker._driver.listeners.emit(event)
        self.listeners.emit(event)


class WorkerLog:
    """The events about one worker, within its cluster's. `listeners` are those of this worker alone."""

    def __init__(self, log: EventLog, worker: Worker) -> None:
        self.listeners = Emitter()
        self._log = log
        self._worker = worker

    def emit(self, event_type: Callable[..., WorkerEvent], /, **fields: Any) -> None:
        """Tell of something that happened to the worker."""
        seq, at = self._log.next()
        event = event_type(seq=seq, at=at, worker=self._worker, **fields)
        self.listeners.emit(event)
        self._log.listeners.emit(event)

    def message(self, value: Any, handle: Any) -> Message:
        """A message of the worker. It is not told here: messages have listeners of their own."""
        seq, at = self._log.next()
        return Message(seq=seq, at=at, worker=self._worker, message=value, handle=handle)
