"""What is done to all workers at once."""

import signal
from typing import Any

import pytest

from everycore.core import wire
from everycore.primary import together


class Member:
    """A worker whose program has a handler of SIGUSR1, or lacks one."""

    def __init__(self, *heard):
        self.process = self
        self.heard = heard
        self.told = []

    def hears(self, number):
        return number in self.heard

    def signal(self, number):
        self.told.append(number)

    def tell(self, message):
        self.told.append(message)


@pytest.mark.parametrize("tells_programs", [True, False])
def test_a_program_hears_of_log_files_if_it_has_asked_for_that(tells_programs):
    with_handler: Any = Member(signal.SIGUSR1)
    without: Any = Member()
    together.reopen_logs([with_handler, without], tells_programs=tells_programs)
    assert without.told == [wire.ReopenLogs()]
    assert with_handler.told == [wire.ReopenLogs(), *[signal.SIGUSR1] * tells_programs]
