"""The workers' own metrics, combined: sums over all workers, dead ones included.

A worker reports `OwnFamily`s, as prometheus-client has them. Counters, histograms and summaries add up; an
`Archive` keeps the sums of workers that are gone. Gauges of live workers combine as their
`multiprocess_mode` says. Gauges without such a rule, and states, get the label `worker`.

Invariant: pure; a worker is added to the archive exactly once, whatever happens in between, because its id
and its sums are kept in one write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

#: The kinds of metrics whose samples add up.
SUMMED: Final = frozenset({"counter", "histogram", "gaugehistogram", "summary"})
_CREATED: Final = "_created"
_BUCKET: Final = "_bucket"
WORKER: Final = "worker"
_LE: Final = "le"

Labels: TypeAlias = tuple[tuple[str, str], ...]
Key: TypeAlias = tuple[str, Labels]


class OwnSample(msgspec.Struct, array_like=True):
    """One sample of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class OwnFamily(msgspec.Struct, array_like=True):
    """One metric of a worker. `mode` is a gauge's `multiprocess_mode`, as prometheus-client names it."""

    name: str
    help: str
    kind: str
    unit: str
    mode: str
    samples: list[OwnSample]


class Archive(msgspec.Struct, array_like=True):
    """The sums of workers that are gone. `folded`: those of them that a slot still names."""

    folded: list[int]
    families: list[OwnFamily]


_told = msgspec.msgpack.Decoder(list[OwnFamily])
_kept = msgspec.msgpack.Decoder(Archive)
encode: Final = msgspec.msgpack.Encoder().encode


def read_told(payload: bytes) -> list[OwnFamily]:
    """Return the families that a worker reported. Raises ValueError."""
    return _told.decode(payload)


def read_archive(payload: bytes) -> Archive:
    """Return the archive in `payload`. Raises ValueError."""
    return _kept.decode(payload)


class _Sum:
    """One metric over several workers."""

    def __init__(self, family: OwnFamily) -> None:
        self.name = family.name
        self.help = family.help
        self.kind = family.kind
        self.unit = family.unit
        self.mode = family.mode
        #: The values, in the order in which they came.
        self.values: dict[Key, float] = {}

    def add(self, family: OwnFamily, worker: int | None, *, is_kept: bool = False) -> None:
        if self.kind in SUMMED:
            for name, labels, value in _increments(family, is_kept=is_kept):
                key = name, labels
                before = self.values.get(key)
                if before is None:
                    self.values[key] = value
                else:
                    self.values[key] = min(before, value) if name.endswith(_CREATED) else before + value
            return
        for sample in family.samples:
            self._add_gauge(sample, worker)

    def _add_gauge(self, sample: OwnSample, worker: int | None) -> None:
        rule = self.mode.removeprefix("live") if self.kind == "gauge" else ""
        labels = sample.labels
        if rule not in ("sum", "min", "max") and self.kind != "info":
            labels = {**labels, WORKER: str(worker)}
        key = sample.name, _labels(labels)
        before = self.values.get(key)
        if before is None or self.kind == "info":
            self.values[key] = sample.value
        else:
            self.values[key] = {"sum": before + sample.value, "min": min(before, sample.value)}.get(
                rule, max(before, sample.value)
            )

    def family(self, *, is_cumulative: bool) -> OwnFamily:
        samples = [OwnSample(name, dict(labels), value) for (name, labels), value in self.values.items()]
        if is_cumulative and self.kind in ("histogram", "gaugehistogram"):
            samples = list(_accumulated(samples))
        return OwnFamily(self.name, self.help, self.kind, self.unit, self.mode, samples)


class Together:
    """The sums of several workers' reports and of the archive."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def add(self, families: Iterable[OwnFamily], worker: int) -> None:
        """Add the families of a live worker. If kinds differ under one name, the first one counts."""
        for family in families:
            known = self._sums.setdefault(family.name, _Sum(family))
            if known.kind == family.kind:
                known.add(family, worker)

    def add_dead(self, families: Iterable[OwnFamily], *, is_kept: bool = False) -> None:
        """Add what adds up in the families of a worker that is gone. `is_kept`: they are from the archive."""
        for family in families:
            if family.kind in SUMMED:
                known = self._sums.setdefault(family.name, _Sum(family))
                if known.kind == family.kind:
                    known.add(family, None, is_kept=is_kept)

    def families(self) -> list[OwnFamily]:
        """Return all families in the form in which metrics report them."""
        return [one.family(is_cumulative=True) for one in self._sums.values()]

    def kept(self) -> list[OwnFamily]:
        """Return all families in the form of the archive, where a histogram's buckets are not cumulative."""
        return [one.family(is_cumulative=False) for one in self._sums.values()]


def _labels(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _increments(family: OwnFamily, *, is_kept: bool) -> Iterator[tuple[str, Labels, float]]:
    """Yield the samples, a histogram's buckets not cumulative: these add up even if bounds differ."""
    last: dict[Labels, float] = {}
    for sample in family.samples:
        value = sample.value
        if sample.name.endswith(_BUCKET) and not is_kept:
            rest = _labels({name: text for name, text in sample.labels.items() if name != _LE})
            value, last[rest] = value - last.get(rest, 0.0), value
        yield sample.name, _labels(sample.labels), value


def _accumulated(samples: list[OwnSample]) -> Iterator[OwnSample]:
    """Yield the samples with a histogram's buckets in order and cumulative."""
    groups: dict[Labels, list[OwnSample]] = {}
    rest: list[OwnSample] = []
    for sample in samples:
        if sample.name.endswith(_BUCKET):
            key = _labels({name: text for name, text in sample.labels.items() if name != _LE})
            groups.setdefault(key, []).append(sample)
        else:
            rest.append(sample)
    for key, buckets in groups.items():
        total = 0.0
        for sample in sorted(buckets, key=_bound):
            total += sample.value
            yield OwnSample(sample.name, sample.labels, total)
        yield from (sample for sample in rest if _labels(sample.labels) == key)
    yield from (sample for sample in rest if _labels(sample.labels) not in groups)


def _bound(sample: OwnSample) -> float:
    try:
        return float(sample.labels.get(_LE, "inf"))
    except ValueError:
        return float("inf")
