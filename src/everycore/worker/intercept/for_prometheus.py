"""Writes this worker's own metrics to the tally, once its program imports prometheus-client.

A thread writes them every second, even if the program's loop is stuck, and once more at the end. A killed
worker loses what it has counted since the last write. Invariant: a program without prometheus-client pays
nothing, and a program with it notices only a thread. A fork of the worker writes nothing: what it counts
stays its own.

Facts: collecting a thousand samples takes some 10 ms, for part of which the program's threads wait (for the
lock of the interpreter). So the pause grows with the duration of a write, up to `LONGEST`.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from types import ModuleType
from typing import Any, Final

from everycore.core.tallies import OwnFamily, OwnSample, encode
from everycore.system.tally import WorkerTally
from everycore.worker.intercept.hooks import after_import

log = logging.getLogger("everycore.worker")

#: The least and the longest time between two writes, in seconds; and how many times longer a pause is than a
#: write.
SHORTEST: Final = 1.0
LONGEST: Final = 4.0
_PAUSES: Final = 50.0


def leave_metrics(fd: int, slot: int) -> None:
    """Write this worker's metrics from the moment when its program imports prometheus-client. Owns `fd`.

    Raises OSError.
    """
    teller = Teller(WorkerTally(fd, slot))
    after_import("prometheus_client", teller.begin)


class Teller:
    """Writes the current metrics."""

    def __init__(self, tally: WorkerTally) -> None:
        self._tally = tally
        self._registry: Any = None
        self._last = b""
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._is_told = False
        #: Whether to stop: collecting metrics that do not fit would cost the program time for nothing.
        self._are_too_many = False

    def begin(self, module: ModuleType) -> None:
        """Start the thread: the program has imported prometheus-client."""
        if not self._is_ours:
            return
        self._registry = module.REGISTRY
        atexit.register(self.tell)
        try:
            threading.Thread(target=self._run, name="everycore-metrics", daemon=True).start()
        except RuntimeError as error:  # pids.max: the metrics are written once, at the end
            log.warning("this worker's metrics are written only once, at its end: %s", error)

    def tell(self) -> None:
        """Write the metrics if they have changed since the last write."""
        if not self._is_ours or not self._lock.acquire(timeout=LONGEST):
            return
        try:
            payload = encode(self._families())
            if payload == self._last:
                return
            if len(payload) > self._tally.most:
                if not self._is_told:
                    self._is_told = True
                    log.warning("this worker's metrics are too large to write: %d bytes", len(payload))
                self._are_too_many = True
                return
            self._tally.write(payload)
            self._last = payload
        except Exception:
            if not self._is_told:
                self._is_told = True
                log.exception("cannot write this worker's metrics")
        finally:
            self._lock.release()

    def _families(self) -> list[OwnFamily]:
        from everycore.foreign.prometheus_internals import collected  # late: it imports prometheus-client

        return [
            OwnFamily(
                name=family.name,
                help=family.documentation,
                kind=family.type,
                unit=family.unit,
                mode=mode,
                samples=[OwnSample(one.name, one.labels, float(one.value)) for one in family.samples],
            )
            for family, mode in collected(self._registry)
        ]

    def _run(self) -> None:
        pause = threading.Event()
        while self._is_ours and not self._are_too_many:
            begun = time.thread_time()
            self.tell()
            pause.wait(min(max(SHORTEST, _PAUSES * (time.thread_time() - begun)), LONGEST))

    @property
    def _is_ours(self) -> bool:
        """Whether this process is the worker, not a fork of it."""
        return os.getpid() == self._process
