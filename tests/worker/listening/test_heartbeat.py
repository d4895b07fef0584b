"""The beats of a worker's loop on the board: as long as it turns, and its main work goes on."""

import asyncio
import sys

import pytest

from everycore.system.board import PrimaryBoard, WorkerBoard
from everycore.system.descriptors import duplicate
from everycore.testing import VirtualTimeLoop
from everycore.worker.listening.heartbeat import Heartbeat, is_debugged
from tests.kit import pass_time


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


@pytest.fixture
def primary():
    board = PrimaryBoard()
    yield board
    board.close()


@pytest.fixture
def board(primary):
    board = WorkerBoard(duplicate(primary.fd), primary.allot())
    yield board
    board.close()


async def test_another_number_whenever_the_primary_looks(primary, board):
    heartbeat = Heartbeat(board, 0.5)
    heartbeat.begin(asyncio.get_running_loop())
    seen = [primary.beat(1)]
    for _ in range(4):
        await pass_time(0.6)
        seen.append(primary.beat(1))
    assert len(set(seen)) == 5
    assert 0 not in seen
    heartbeat.end()
    assert primary.beat(1) == 0
    await pass_time(5)
    assert primary.beat(1) == 0


async def test_nobody_watches(primary, board):
    heartbeat = Heartbeat(board, 0.0)
    heartbeat.begin(asyncio.get_running_loop())
    await pass_time(5)
    assert primary.beat(1) == 0


async def test_the_end_of_another_loop_is_not_the_end(primary, board):
    heartbeat = Heartbeat(board, 0.5)
    heartbeat.begin(asyncio.get_running_loop())
    other = asyncio.new_event_loop()
    heartbeat.end(other)
    other.close()
    assert primary.beat(1) > 0
    heartbeat.end(asyncio.get_running_loop())
    assert primary.beat(1) == 0


async def test_it_is_held_back_while_what_the_loop_is_there_for_is_stuck(primary, board):
    heartbeat = Heartbeat(board, 0.5)
    stuck = [True]
    heartbeat.begin(asyncio.get_running_loop())
    heartbeat.hold_while(lambda: stuck[0])
    before = primary.beat(1)
    await pass_time(5)
    assert primary.beat(1) == before
    stuck[0] = False
    await pass_time(0.5)
    assert primary.beat(1) > before
    heartbeat.end()


async def test_under_a_debugger_beats_are_not_counted(primary, board):
    before = sys.gettrace()
    heartbeat = Heartbeat(board, 0.5)
    try:
        sys.settrace(lambda *_: None)
        assert is_debugged()
        heartbeat.begin(asyncio.get_running_loop())
        assert primary.beat(1) == 0
    finally:
        sys.settrace(before)
    heartbeat.end()


async def test_in_a_forked_child_it_goes_nowhere(primary, board):
    heartbeat = Heartbeat(board, 0.5)
    heartbeat.begin(asyncio.get_running_loop())
    before = primary.beat(1)
    board.close()
    await pass_time(5)
    heartbeat.end()
    assert primary.beat(1) == before
