"""The law of dispatch, checked on a `World`: where each connection is, and that none waits in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everycore.core.lanes import MOST_CREDIT, Pause

if TYPE_CHECKING:
    from tests.kit.dispatch_world import Worker, World

#: How long after a limit the dispatcher may check it: see `lanes._TICK`.
TICK = 2e-6


def check(world: World) -> None:
    _check_places(world)
    for worker, it in world.workers.items():
        _check_account(world, worker, it)
    at_work = {worker for worker, it in world.workers.items() if not it.rests}
    assert set(world.lanes.lanes) == at_work
    assert set(world.lanes._left) == set(world.workers) - at_work
    world.check_waits()


def _check_places(world: World) -> None:
    places = [
        list(world.dispatcher.arrivals.queue),
        [c for it in world.workers.values() for message in it.belt for c in message.connections],
        [c for it in world.workers.values() for c in it.taken.values() if c is not None],
        list(world.picked_up),
        list(world.lost),
    ]
    everywhere = [connection for place in places for connection in place]
    assert sorted(everywhere) == sorted(world.accepted), "a connection is in two places, or in none"
    assert world.dispatcher.arrivals.accepted == len(world.accepted)


def _check_account(world: World, worker: int, it: Worker) -> None:
    lane = world.lanes.lane_of(worker)
    assert lane is not None
    numbers = [number for message in it.belt for number, _ in message.numbered()] + list(it.taken)
    assert sorted(lane.pending) == sorted(numbers), "the account is not what lies there"
    if not it.rests:
        expected = {Pause.FULL} if it.is_full else set()
        expected |= {Pause.BELT} if world.now < it.belt_rests_until else set()
        expected |= {Pause.FINISHING} if it.finishes else set()
        assert lane.pauses - {Pause.STALLED} == expected, "a reason was ended by another, or not at all"
    assert 1 <= lane.credit <= MOST_CREDIT
    if lane.is_stalled:
        assert lane.pending, "stalled, with nothing to be heard of"


def check_waits(world: World) -> None:
    """No connection waits that a worker could have now, and every wait has an end."""
    look_at = world.dispatcher.orders.look_at
    assert look_at is None or look_at > world.now
    if look_at is not None and look_at - world.now < TICK:
        return
    may_accept = world.listens and world.now >= world.accepts_at
    waiting = list(world.dispatcher.arrivals.queue) + (list(world.backlog) if may_accept else [])
    finishing = world.dispatcher.finishing
    if finishing is not None:
        it, lane = world.workers[finishing], world.lanes.lanes[finishing]
        is_stuck = world.now < it.belt_rests_until or not may_accept
        assert is_stuck or (it.room is not None and lane.outstanding >= it.room)
    elif waiting and (open_lanes := world.lanes.open_to(world.now)):
        # Credit that ran out has grown for the next turn, that of an acknowledgement.
        assert world.lanes.policy.pick(open_lanes).pending, (
            "somebody waits, and a worker that has nothing to do could have it"
        )
    if world.now < world.accepts_at and world.listens:
        assert look_at is not None
    if world.lanes.overdue(world.now) and not world.lanes.is_costly:
        assert look_at is not None, "nobody would look for what is to be recalled"
