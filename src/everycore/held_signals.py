"""Signals that are to wait for a moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold back these signals from the calling thread. What has come is delivered at the end of the block."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
