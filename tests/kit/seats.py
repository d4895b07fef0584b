"""A worker's seat that a test defines."""


class FakeSeat:
    """A `core.sticky.Seat`."""

    def __init__(self, slot, open=0):
        self.slot = slot
        self.open = open
