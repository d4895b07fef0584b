"""Lanes that watch the dispatcher: whom it chooses, and how much it hands over."""

from everycore.core.lanes import FIRST_CREDIT, MOST_CREDIT, Lane, Lanes, Pause
from everycore.core.policies import MOST_ARREARS


class WatchedLanes(Lanes):
    """Lanes that watch what the dispatcher does with them."""

    def open_to(self, now: float) -> list[Lane]:
        before = picture(self)
        found = super().open_to(now)
        assert picture(self) == before, "open_to changed something"
        return found

    def hand(self, lane: Lane, now: float) -> bool:
        if Pause.FINISHING not in lane.pauses:
            self._check_choice(lane, now)
        may_have_more = super().hand(lane, now)
        assert lane.credit <= MOST_CREDIT
        assert lane.outstanding <= lane.credit or Pause.FINISHING in lane.pauses
        assert lane.room is None or lane.outstanding <= lane.room
        assert self._most_given - lane.given <= MOST_ARREARS
        if not lane.pauses:
            most = FIRST_CREDIT if self.is_costly else MOST_CREDIT
            assert may_have_more is (lane.has_room and lane.outstanding < most)
        return may_have_more

    def _check_choice(self, chosen: Lane, now: float) -> None:
        """Strictly in turn among those with credit that are not late; late ones only if all are."""
        limit = now - self._late_limit
        open_lanes = [lane for lane in self.lanes.values() if not lane.pauses]
        assert chosen in open_lanes
        if chosen.is_late(limit):
            assert all(lane.is_late(limit) for lane in open_lanes)
        most = FIRST_CREDIT if self.is_costly else MOST_CREDIT
        blocked = now - self._overdue_limit
        rivals = [
            lane
            for lane in open_lanes
            if lane.has_room and lane.outstanding < most and not lane.is_late(blocked)
            if lane.is_late(limit) == chosen.is_late(limit)
        ]
        assert chosen in rivals
        assert chosen.given == min(lane.given for lane in rivals)
        assert chosen is next(lane for lane in rivals if lane.given == chosen.given)


def picture(lanes: Lanes) -> object:
    """Everything about the lanes, to see whether something has changed."""
    each = [
        (
            worker,
            *(getattr(lane, name) for name in Lane.__slots__ if name not in ("pending", "pauses")),
            tuple(lane.pending.items()),
            frozenset(lane.pauses),
        )
        for those in (lanes.lanes, lanes._left)
        for worker, lane in those.items()
    ]
    others = {name: value for name, value in vars(lanes).items() if name not in ("lanes", "_left")}
    return each, list(lanes._left), others
