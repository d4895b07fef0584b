"""The settings of supervision, a part of `config.tree`: when a worker is stuck, and when it is replaced."""

from typing import Annotated

import msgspec

from everycore.config.kinds import Count, Seconds, Size
from everycore.config.sections import SUPERVISION
from everycore.config.setting import Setting
from everycore.settings import LEAST_STALL


class LifetimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of supervision that both commands have."""

    stall_dump: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "Print the stacks of a worker that makes no progress for this long; 0: never.",
            SUPERVISION,
        ),
    ] = 10.0
    stall_kill: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "Abort and replace a worker that makes no progress for this long; 0: never.",
            SUPERVISION,
            default="never",
        ),
    ] = 0.0
    max_connections: Annotated[
        int | None,
        Setting(Count(0), "Replace a worker after about N connections.", SUPERVISION, default="never"),
    ] = None
    max_lifetime: Annotated[
        float | None,
        Setting(Seconds(), "Replace a worker at about this age.", SUPERVISION, default="never"),
    ] = None
    max_memory: Annotated[
        int | None,
        Setting(
            Size(),
            "Replace a worker that uses more memory than this, as in 300M.",
            SUPERVISION,
            default="never",
        ),
    ] = None
