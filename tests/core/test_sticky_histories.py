"""Random histories of the `sticky` dispatcher: the law holds, with own workers, and no wait in vain."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.kit.dispatch_histories import WORKERS, Histories
from tests.kit.sticky_world import StickyWorld

CLIENTS = st.sampled_from([b"one", b"two", b"three", b"four", b"five", None])


class StickyHistories(Histories):
    """Any events, in any order; worker 4 is in the slot of worker 1."""

    world: StickyWorld

    def make_world(self) -> StickyWorld:
        world = StickyWorld()
        world.slots[4] = 0
        return world

    @rule(client=CLIENTS)
    def another_client_comes(self, client):
        self.world.client = client

    @rule(worker=WORKERS, count=st.sampled_from([-5, 0, 20, 100, 1 << 40]))
    def say_how_many_are_open(self, worker, count):
        """A worker may report any number."""
        if worker in self.world.seats:
            self.world.seats[worker].open = count


TestStickyHistories = StickyHistories.TestCase
TestStickyHistories.settings = settings(max_examples=150, stateful_step_count=40)
