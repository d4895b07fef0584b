"""Waiting for the end of a child without reaping it."""

from __future__ import annotations

import os
import select


def wait_for_end(pid: int, seconds: float) -> bool:
    """Whether the child `pid`, which nothing has waited for yet, ends within `seconds`.

    The child is not reaped.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # gone, or no descriptor is left for the pidfd
        return False
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(pidfd)
