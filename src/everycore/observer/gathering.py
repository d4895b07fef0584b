"""Gathers the workers' own metrics from the tally, and folds those of ended workers into its archive.

Invariant: each count of a worker is in the sum exactly once: from its slot, or, once that is folded, from the
archive. What a worker has written and cannot be read is left out, and logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from prometheus_client import Metric

from everycore.core.tallies import (
    Archive,
    OwnFamily,
    Together,
    encode,
    read_archive,
    read_told,
)
from everycore.observer.catalogue import CATALOGUE, PREFIX
from everycore.system.tally import ObserverTally, SlotState

log = logging.getLogger("everycore.observer")

_OURS: Final = frozenset(PREFIX + name for name in CATALOGUE)
_KINDS: Final = frozenset(
    {"counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"}
)


class Gatherer:
    """The metrics that workers have counted with prometheus-client."""

    def __init__(self, tally: ObserverTally) -> None:
        self._tally = tally
        self._archive = self._read_archive()
        #: The workers whose metrics were logged as unreadable.
        self._told: set[int] = set()

    def fold(self) -> None:
        """Add the sums of ended workers to the archive, and release their slots."""
        owners = self._tally.owners()
        left = {slot: worker for slot, (state, worker) in owners.items() if state is SlotState.LEFT}
        fresh = {slot: worker for slot, worker in left.items() if worker not in self._archive.folded}
        if fresh:
            together = Together()
            for slot, worker in fresh.items():  # if two kinds have one name, that of the newer code counts
                together.add_dead(self._read(slot, worker))
            together.add_dead(self._archive.families, is_kept=True)
            archive = Archive(sorted(left.values()), together.kept())
            payload = encode(archive)
            if len(payload) <= self._tally.most:
                self._tally.keep(payload)
                self._archive = archive
            else:
                log.error(
                    "too many metrics of ended workers to keep: the counts of workers %s are lost", left
                )
        for slot, worker in left.items():
            self._tally.let_go(slot, worker)

    def metrics(self) -> Iterator[Metric]:
        """Return all current metrics."""
        self.fold()
        together = Together()
        owners = sorted(self._tally.owners().items(), key=lambda one: one[1][1], reverse=True)
        for slot, (_, worker) in owners:
            together.add(self._read(slot, worker), worker)
        together.add_dead(self._archive.families, is_kept=True)
        for family in together.families():
            if family.name not in _OURS and family.kind in _KINDS:
                yield _metric(family)

    def _read(self, slot: int, worker: int) -> list[OwnFamily]:
        payload = self._tally.read(slot)
        if payload is None:
            return []
        try:
            return read_told(payload)
        except ValueError as error:
            if worker not in self._told:
                self._told.add(worker)
                log.warning("cannot read the metrics of worker %d, leaving them out: %s", worker, error)
            return []

    def _read_archive(self) -> Archive:
        payload = self._tally.archive()
        if payload is not None:
            try:
                return read_archive(payload)
            except ValueError as error:
                log.error("the sums of ended workers cannot be read: %s", error)  # noqa: TRY400
        return Archive([], [])


def _metric(family: OwnFamily) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    metric.unit = family.unit
    for sample in family.samples:
        metric.add_sample(sample.name, sample.labels, sample.value)
    return metric
