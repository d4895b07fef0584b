"""The memory of a process: its resident bytes, or its proportional share."""

import os

from everycore.system.memory import memory


def test_resident_up_to_the_limit_and_the_share_above_it():
    held = bytearray(32 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    resident, share = memory(os.getpid(), 2**60), memory(os.getpid(), 0)
    assert resident is not None
    assert share is not None
    assert resident >= 32 * 2**20
    assert 32 * 2**20 <= share <= resident + 2**20


def test_nobody():
    assert memory(2**22 + 1, 0) is None
