"""The settings of supervision, which say when a worker is not to go on: a part of `config.tree`."""

from typing import Annotated

import msgspec

from everycore.config.kinds import Count, Seconds, Size
from everycore.config.sections import SUPERVISION
from everycore.config.setting import Setting
from everycore.settings import LEAST_STALL


class LifetimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What both commands have."""

    stall_dump: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "A worker without progress for so long prints the stacks of its threads; 0: never.",
            SUPERVISION,
        ),
    ] = 10.0
    stall_kill: Annotated[
        float,
        Setting(
            Seconds(LEAST_STALL, or_never=True),
            "A worker without progress for so long is aborted and replaced; 0: never.",
            SUPERVISION,
            default="never",
        ),
    ] = 0.0
    max_connections: Annotated[
        int | None,
        Setting(
            Count(0), "A worker is replaced after so many connections, about.", SUPERVISION, default="never"
        ),
    ] = None
    max_lifetime: Annotated[
        float | None,
        Setting(Seconds(), "A worker is replaced at that age, about.", SUPERVISION, default="never"),
    ] = None
    max_memory: Annotated[
        int | None,
        Setting(
            Size(),
            "A worker is replaced when it has more memory, as in 300M, about.",
            SUPERVISION,
            default="never",
        ),
    ] = None
