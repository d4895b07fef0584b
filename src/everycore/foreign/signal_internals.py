"""The private parts of `signal` and `enum` that everycore uses.

Python names only the first and the last real-time signal, and an enumeration can't make other members. A
worker can end by any of these signals, and `ExitStatus.signal` has to name it.
"""

from __future__ import annotations

import signal
from typing import Final

from everycore.foreign import is_allowed


def _unnamed(number: int) -> signal.Signals:
    member = int.__new__(signal.Signals, number)
    member._name_, member._value_ = f"SIGRTMIN+{number - signal.SIGRTMIN}", number
    return member


def _probe() -> bool:
    try:
        number = int(signal.SIGRTMIN) + 1
        member = _unnamed(number)
        return (member, member.name, member.value) == (number, "SIGRTMIN+1", number) and bool(repr(member))
    except (AttributeError, TypeError, ValueError):
        return False


_CAN_NAME: Final = is_allowed("signal.unnamed") and _probe()


def signal_of(number: int) -> signal.Signals:
    """The signal with that number. Without the private parts, SIGRTMIN stands for every unnamed one."""
    try:
        return signal.Signals(number)
    except ValueError:
        return _unnamed(number) if _CAN_NAME else signal.SIGRTMIN
