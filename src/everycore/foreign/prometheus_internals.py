"""The internal parts of prometheus-client that everycore uses.

This module is imported only where prometheus-client is.

There is one probe, *metrics*: `_collector_to_names` of a registry, which holds everything that is registered,
and `_multiprocess_mode` of a gauge, which tells how its values are combined. Without them a registry is
collected as for a scrape, including the program's own collectors, and every gauge is reported by worker.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary

from everycore.foreign import is_allowed

#: The classes by which a program itself counts. Other collectors query another source when collected.
_METRICS: Final = (Counter, Enum, Gauge, Histogram, Info, Summary)
#: The prefixes of the collectors that every registry has, and that describe the process.
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
    """Whether the internal parts of this prometheus-client pass their probe."""
    return is_allowed("prometheus.metrics") and _probe()


def mode_of_gauge(gauge: Any) -> str:
    """The `multiprocess_mode` of a gauge."""
    return str(gauge._multiprocess_mode)


def collected(registry: CollectorRegistry) -> list[tuple[Any, str]]:
    """The current families of a registry, each with the mode of its gauge (or "all")."""
    if not knows_metrics():
        families = registry.collect()
        return [(family, ALL) for family in families if not family.name.startswith(_OF_PROCESS)]
    found = []
    for collector in tuple(registry._collector_to_names):
        if isinstance(collector, _METRICS):
            mode = mode_of_gauge(collector) if isinstance(collector, Gauge) else ALL
            with contextlib.suppress(Exception):  # if a gauge's function fails, the others are reported
                found += [(family, mode) for family in collector.collect()]
    return found
