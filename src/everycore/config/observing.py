"""The settings of the observer: where it listens, and how many workers make a service ready."""

from typing import Annotated, TypeAlias

from everycore.config.kinds import Count, Path
from everycore.config.sections import METRICS
from everycore.config.setting import Setting
from everycore.settings import MOST_WORKERS

MetricsAddress: TypeAlias = Annotated[
    str | None,
    Setting(
        Path("HOST:PORT|unix:PATH"),
        "Answer /metrics, /live and /ready there, by a process of its own. PORT alone is 127.0.0.1.",
        METRICS,
        default="nowhere",
        is_fixed=True,
    ),
]
MinReady: TypeAlias = Annotated[
    int,
    Setting(
        Count(1, most=MOST_WORKERS),
        "/ready says yes with so many ready workers, until a stop begins.",
        METRICS,
        is_fixed=True,
    ),
]
