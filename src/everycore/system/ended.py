"""Waiting for the end of a child without taking note of it."""

from __future__ import annotations

import os
import select


def wait_for_end(pid: int, seconds: float) -> bool:
    """Whether the child `pid`, which nobody has waited for, ends within `seconds`.

    It stays to be waited for.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # gone, or no descriptor is left to wait by
        return False
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(pidfd)
