"""A clock for decisions: time passes when the test says so."""


class VirtualClock:
    """`clock.now` is the time; so is `clock()`, for code that takes a function such as `time.monotonic`."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    @property
    def now(self) -> float:
        return self._now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass, and return the new time. Time does not go back."""
        if seconds < 0:
            raise ValueError(f"time does not go back ({seconds} s)")
        self._now += seconds
        return self._now

    def advance_to(self, moment: float) -> float:
        return self.advance(moment - self._now)
