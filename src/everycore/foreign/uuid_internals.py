"""The private part of `uuid` that everycore uses.

`uuid1` asks libuuid, which keeps its clock sequence in memory. Forks of one process have the same sequence,
so two of them that ask within the same 100 ns get the same UUID. Without libuuid the sequence is drawn anew
each time. Without the private part, `uuid1` goes on using libuuid.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from everycore.foreign import is_allowed

_NAME: Final = "_generate_time_safe"


def renew() -> None:
    """Let each `uuid1()` draw its clock sequence at random, after a fork."""
    module: Any = sys.modules.get("uuid")
    if module is not None and is_allowed("uuid.generator") and getattr(module, _NAME, None) is not None:
        setattr(module, _NAME, None)
