"""The settings of the observer: its address, and how many workers make the service ready."""

from typing import Annotated, TypeAlias

from everycore.config.kinds import Count, Path
from everycore.config.sections import METRICS
from everycore.config.setting import Setting
from everycore.settings import MOST_WORKERS

MetricsAddress: TypeAlias = Annotated[
    str | None,
    Setting(
        Path("HOST:PORT|unix:PATH"),
        "Answer /metrics, /live and /ready at this address, in a separate process. PORT alone is 127.0.0.1.",
        METRICS,
        default="no observer",
        is_fixed=True,
    ),
]
MinReady: TypeAlias = Annotated[
    int,
    Setting(
        Count(1, most=MOST_WORKERS),
        "How many workers must be ready for /ready to answer yes. After a stop has begun, it answers no.",
        METRICS,
        is_fixed=True,
    ),
]
