"""What everycore uses of the inner parts of prometheus-client. Imported only where that is.

One probe, *metrics*: `_collector_to_names` of a registry, which has everything that is registered, and
`_multiprocess_mode` of a gauge, which says how its values go together. Without them a registry is collected
as for a scrape, collectors of the program's own included, and every gauge is told by worker.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary

from everycore.foreign import is_allowed

#: What a program counts by; other collectors ask somebody else when they are collected.
_METRICS: Final = (Counter, Enum, Gauge, Histogram, Info, Summary)
#: Of collectors that every registry has, and that are about the process.
_OF_PROCESS: Final = ("python_", "process_")
ALL: Final = "all"


def _probe() -> bool:
    try:
        registry = CollectorRegistry()
        gauge = Gauge("everycore_probe", "x", registry=registry, multiprocess_mode="max")
        found: Any = getattr(registry, "_collector_to_names")  # noqa: B009 - private, as this whole module
        return list(found) == [gauge] and mode_of_gauge(gauge) == "max"
    except (AttributeError, TypeError, ValueError):
        return False


@functools.cache
def knows_metrics() -> bool:
    """Whether the inner parts of this prometheus-client are as we know them."""
    return is_allowed("prometheus.metrics") and _probe()


def mode_of_gauge(gauge: Any) -> str:
    """Its `multiprocess_mode`."""
    return str(gauge._multiprocess_mode)


def collected(registry: CollectorRegistry) -> list[tuple[Any, str]]:
    """The families of a registry, each with the mode of its gauge (or "all"), as they are now."""
    if not knows_metrics():
        families = registry.collect()
        return [(family, ALL) for family in families if not family.name.startswith(_OF_PROCESS)]
    found = []
    for collector in tuple(registry._collector_to_names):
        if isinstance(collector, _METRICS):
            mode = mode_of_gauge(collector) if isinstance(collector, Gauge) else ALL
            with contextlib.suppress(Exception):  # a function of a gauge's fails: the others are told
                found += [(family, mode) for family in collector.collect()]
    return found
