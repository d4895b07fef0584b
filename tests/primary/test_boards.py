"""A board for the workers of each user."""

import os

import pytest

from everycore.primary.boards import Boards
from tests.kit import open_fds
from tests.kit.trouble import no_descriptors


def test_workers_of_one_user_share_a_board_and_others_have_another():
    boards = Boards()
    me, other = os.geteuid(), os.geteuid() + 1
    assert (boards.allot(me), boards.allot(other), boards.allot(me)) == (1, 1, 2)
    assert boards.fd_of(me) != boards.fd_of(other)
    assert set(boards.descriptors()) == {boards.fd_of(me), boards.fd_of(other)}
    boards.release(other, 1)
    assert (boards.allot(other), boards.allot(me)) == (1, 3)
    boards.close()


def test_nothing_stays_open():
    before = open_fds()
    boards = Boards()
    boards.allot(os.geteuid() + 1)
    boards.close()
    assert open_fds() == before


def test_without_descriptors_there_is_no_row_and_the_file_is_the_error():
    boards = Boards()
    other = os.geteuid() + 1
    with no_descriptors():
        assert boards.allot(other) == 0
        with pytest.raises(OSError, match="Too many open files"):
            boards.fd_of(other)
    boards.release(other, 0)
    assert (boards.open(other, 0), boards.accepted(other, 0)) == (0, 0)
    boards.close()
