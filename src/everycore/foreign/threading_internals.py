"""What everycore uses of the private parts of `threading`.

`threading.main_thread().native_id` is what it was before a fork, in Python 3.11. Without the private part it
stays so; nothing of everycore's depends on it.
"""

from __future__ import annotations

import threading
from typing import Final

from everycore.foreign import is_allowed

_CAN_RENEW: Final = is_allowed("threading.native_id") and callable(
    getattr(threading.main_thread(), "_set_native_id", None)
)


def renew_main_thread() -> None:
    """Let the main thread know its own number, after a fork."""
    if _CAN_RENEW:
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
