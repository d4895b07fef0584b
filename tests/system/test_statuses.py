"""What /proc says about a process."""

import os

from everycore.system.statuses import status_of


def test_of_this_process_and_of_none():
    assert status_of("self")["Pid"] == status_of(os.getpid())["Pid"] == str(os.getpid())
    assert status_of(2**30) == {}
