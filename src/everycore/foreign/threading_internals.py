"""The private part of `threading` that everycore uses.

In Python 3.11, `threading.main_thread().native_id` keeps its value from before a fork. Without the private
part it stays wrong. Nothing in everycore depends on it.
"""

from __future__ import annotations

import threading
from typing import Final

from everycore.foreign import is_allowed

_CAN_RENEW: Final = is_allowed("threading.native_id") and callable(
    getattr(threading.main_thread(), "_set_native_id", None)
)


def renew_main_thread() -> None:
    """Update the native id of the main thread, after a fork."""
    if _CAN_RENEW:
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
