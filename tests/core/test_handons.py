"""Which workers hand idle connections on, and to which ones."""

import random

import pytest

from everycore.core.handons import HandOnBook
from everycore.errors import ProtocolError

ROOM = 100


def book(*workers, most=ROOM):
    handons = HandOnBook()
    for worker in workers:
        handons.can(worker, most)
        handons.ready(worker)
    return handons


class TestWhoMay:
    def test_a_leaving_worker_may_while_another_stays(self):
        handons = book(1, 2)
        handons.leaves(1)
        assert handons.news() == [(1, True)]
        assert handons.news() == []  # told once

    def test_no_worker_may_if_all_leave(self):
        handons = book(1, 2)
        handons.leaves(1)
        handons.leaves(2)
        assert handons.news() == [(1, False), (2, False)]
        assert handons.news() == []  # told once
        with pytest.raises(ProtocolError, match="without permission"):
            handons.hands_on(1)

    def test_it_is_told_when_the_last_one_that_stayed_leaves_too(self):
        handons = book(1, 2)
        handons.leaves(1)
        handons.news()
        handons.leaves(2)
        assert handons.news() == [(1, False), (2, False)]
        handons.hands_on(1)  # what it has sent meanwhile is allowed

    def test_it_is_told_when_a_replacement_is_ready(self):
        handons = book(1)
        handons.leaves(1)
        assert handons.news() == [(1, False)]
        handons.can(2, ROOM)
        assert handons.news() == []
        handons.ready(2)
        assert handons.news() == [(1, True)]

    def test_workers_that_cannot_do_not_count_and_are_told_nothing(self):
        handons = book(1)
        handons.ready(2)
        handons.leaves(1)
        assert handons.news() == [(1, False)]
        handons = book(1)
        handons.ready(2)
        handons.leaves(2)
        assert handons.news() == []

    def test_a_worker_that_is_gone_is_told_nothing(self):
        handons = book(1, 2)
        handons.leaves(1)
        handons.gone(1)
        assert handons.news() == []
        with pytest.raises(ProtocolError, match="without permission"):
            handons.hands_on(1)

    def test_no_worker_hands_on_more_than_it_can_have(self):
        handons = book(1, 2, most=3)
        handons.leaves(1)
        handons.news()
        for _ in range(3):
            handons.hands_on(1)
        with pytest.raises(ProtocolError, match="more than 3"):
            handons.hands_on(1)


class TestWhoGetsIt:
    def test_the_one_with_the_fewest(self):
        handons = book(1, 2, 3)
        handons.leaves(1)
        assert handons.choose(1, [1, 2, 3], {2: 5, 3: 4}.__getitem__) == 3

    def test_a_burst_is_spread_though_no_count_has_changed_yet(self):
        handons = book(1, 2, 3)
        handons.leaves(1)
        assert sorted(handons.choose(1, [1, 2, 3], lambda _: 7) for _ in range(10)) == [2] * 5 + [3] * 5

    def test_no_worker_is_given_more_than_it_has_room_for_before_its_count_changes(self):
        handons = book(1, 2, most=5)
        handons.leaves(1)
        assert [handons.choose(1, [1, 2], lambda _: 3) for _ in range(3)] == [2, 2, 1]

    def test_only_those_that_hold_the_listener(self):
        handons = book(1, 2, 3)
        handons.leaves(1)
        assert handons.choose(1, [3], {2: 0, 3: 50}.__getitem__) == 3

    def test_it_comes_back_if_no_worker_has_room(self):
        handons = book(1, 2)
        handons.leaves(1)
        assert handons.choose(1, [1, 2], lambda _: ROOM) == 1

    def test_another_that_leaves_has_it_where_its_giver_is_gone(self):
        handons = book(1, 2)
        handons.leaves(1)
        handons.leaves(2)
        handons.gone(1)
        assert handons.choose(1, [2], lambda _: 0) == 2

    def test_nobody_is_left(self):
        handons = book(1)
        handons.leaves(1)
        handons.gone(1)
        assert handons.choose(1, [], lambda _: 0) is None


def test_whatever_happens_what_workers_believe_is_true_once_they_were_told():
    rng = random.Random(7)
    for _ in range(300):
        handons, believe, ready, leaving = HandOnBook(), {}, set(), set()
        for worker in range(1, 6):
            if rng.random() < 0.8:
                handons.can(worker, ROOM)
                believe[worker] = False
        for _ in range(12):
            worker = rng.randint(1, 5)
            match rng.choice(["ready", "leaves", "gone", "news"]):
                case "ready" if worker not in leaving:
                    handons.ready(worker)
                    ready.add(worker)
                case "leaves":
                    handons.leaves(worker)
                    ready.discard(worker)
                    leaving.add(worker)
                case "gone" if worker in leaving:
                    handons.gone(worker)
                    believe.pop(worker, None)
                    leaving.discard(worker)
                    ready.discard(worker)
            believe.update(handons.news())
            may = bool(ready & believe.keys())
            assert all(believe[worker] is may for worker in leaving & believe.keys())
