"""What everycore uses of the private parts of `uuid`.

`uuid1` asks libuuid, which has its clock sequence in memory: forks of one process have the same, and two of
them that ask within the same 100 ns get the same UUID. Without libuuid the sequence is drawn anew each time.
Without the private part libuuid stays.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from everycore.foreign import is_allowed

_NAME: Final = "_generate_time_safe"


def renew() -> None:
    """After a fork: draw the clock sequence of each `uuid1()` at random."""
    module: Any = sys.modules.get("uuid")
    if module is not None and is_allowed("uuid.generator") and getattr(module, _NAME, None) is not None:
        setattr(module, _NAME, None)
