"""Which request to stop a signal is."""

from signal import SIGINT, SIGTERM

import pytest

from everycore.core.stopping import SAME_REQUEST, StopRequests

SOON, LATER = SAME_REQUEST / 2, SAME_REQUEST * 2


@pytest.mark.parametrize(
    ("came", "taken"),
    [
        ([(SIGTERM, 0.0), (SIGTERM, LATER), (SIGTERM, 2 * LATER)], [1, 2, 3]),
        ([(SIGTERM, 0.0), (SIGTERM, SOON)], [1, 0]),
        ([(SIGTERM, 0.0), (SIGTERM, SOON), (SIGTERM, 2 * SOON), (SIGTERM, 2 * SOON + LATER)], [1, 0, 0, 2]),
        ([(SIGTERM, 0.0), (SIGINT, SOON)], [1, 2]),
    ],
    ids=["apart", "at once", "for a while", "another one"],
)
def test_the_same_signal_at_once_is_the_same_request(came, taken):
    requests = StopRequests()
    assert [requests.take(number, 1000.0 + at) for number, at in came] == taken
