"""The metrics that workers have themselves, put together: sums over all of them, the dead included.

A worker tells `OwnFamily`s, as prometheus-client has them. Counters, histograms and summaries add up; of
workers that are gone the sums are kept in an `Archive`. Gauges go together as their `multiprocess_mode` says,
over the workers that live; those without such a rule, and states, get the label `worker`.

Invariant: pure; a worker is added to the archive once, whatever happens in between: its id and its sums are
kept in one writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

#: The kinds whose samples add up.
SUMMED: Final = frozenset({"counter", "histogram", "gaugehistogram", "summary"})
_CREATED: Final = "_created"
_BUCKET: Final = "_bucket"
WORKER: Final = "worker"
_LE: Final = "le"

Labels: TypeAlias = tuple[tuple[str, str], ...]
Key: TypeAlias = tuple[str, Labels]


class OwnSample(msgspec.Struct, array_like=True):
    """One value."""

    name: str
    labels: dict[str, str]
    value: float


class OwnFamily(msgspec.Struct, array_like=True):
    """One metric of a worker. mode: of a gauge, as prometheus-client calls it."""

    name: str
    help: str
    kind: str
    unit: str
    mode: str
    samples: list[OwnSample]


class Archive(msgspec.Struct, array_like=True):
    """The sums of those that are gone. folded: which of them still have a slot that says so."""

    folded: list[int]
    families: list[OwnFamily]


_told = msgspec.msgpack.Decoder(list[OwnFamily])
_kept = msgspec.msgpack.Decoder(Archive)
encode: Final = msgspec.msgpack.Encoder().encode


def read_told(payload: bytes) -> list[OwnFamily]:
    """What a worker has left. Raises ValueError."""
    return _told.decode(payload)


def read_archive(payload: bytes) -> Archive:
    """What was kept. Raises ValueError."""
    return _kept.decode(payload)


class _Sum:
    """One metric over several workers."""

    def __init__(self, family: OwnFamily) -> None:
        self.name = family.name
        self.help = family.help
        self.kind = family.kind
        self.unit = family.unit
        self.mode = family.mode
        #: In the order in which they came.
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
    """Sums of what several workers have told, and of what was kept."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def add(self, families: Iterable[OwnFamily], worker: int) -> None:
        """Those of a worker that lives. Of one name, the kind that comes first counts."""
        for family in families:
            known = self._sums.setdefault(family.name, _Sum(family))
            if known.kind == family.kind:
                known.add(family, worker)

    def add_dead(self, families: Iterable[OwnFamily], *, is_kept: bool = False) -> None:
        """What adds up of those of one that is gone; is_kept: of the archive."""
        for family in families:
            if family.kind in SUMMED:
                known = self._sums.setdefault(family.name, _Sum(family))
                if known.kind == family.kind:
                    known.add(family, None, is_kept=is_kept)

    def families(self) -> list[OwnFamily]:
        """All of them, as they are told."""
        return [one.family(is_cumulative=True) for one in self._sums.values()]

    def kept(self) -> list[OwnFamily]:
        """The same, as they are kept: the classes of histograms each by itself."""
        return [one.family(is_cumulative=False) for one in self._sums.values()]


def _labels(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _increments(family: OwnFamily, *, is_kept: bool) -> Iterator[tuple[str, Labels, float]]:
    """Its samples; the classes of a histogram each by itself: so they add up where the bounds differ."""
    last: dict[Labels, float] = {}
    for sample in family.samples:
        value = sample.value
        if sample.name.endswith(_BUCKET) and not is_kept:
            rest = _labels({name: text for name, text in sample.labels.items() if name != _LE})
            value, last[rest] = value - last.get(rest, 0.0), value
        yield sample.name, _labels(sample.labels), value


def _accumulated(samples: list[OwnSample]) -> Iterator[OwnSample]:
    """The classes of a histogram, each with all that are below it, in their order."""
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
