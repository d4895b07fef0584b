"""When a worker may be lax about the order: connections come fast, are cheap, and end as fast."""

import pytest

from everycore.core.lanes import COSTLY
from everycore.core.pace import FAST, LOOK, SLACK, Pace


@pytest.mark.parametrize(
    ("apart", "held", "cost", "slack"),
    [
        (FAST / 2, 0, 0.0, SLACK),
        (FAST / 2, LOOK // 4, COSTLY / 2, SLACK),
        (FAST / 2, -LOOK, 0.0, SLACK),
        (FAST * 2, 0, 0.0, 0),
        (FAST / 2, 0, COSTLY * 2, 0),
        (FAST / 2, LOOK, 0.0, 0),
    ],
)
def test_it_is_lax_while_cheap_connections_come_fast_and_end_as_fast(apart, held, cost, slack):
    pace = Pace()
    pace.begin(LOOK, 100.0, 5)
    assert pace.left == LOOK
    pace.look(100.0 + LOOK * apart, 5 + held, cost)
    assert pace.slack == slack


def test_of_few_connections_it_learns_nothing():
    pace = Pace()
    pace.begin(LOOK, 0.0, 0)
    pace.look(LOOK * FAST / 2, 0, 0.0)
    pace.begin(2, 0.0, 0)
    pace.look(10.0, 2, 0.0)
    assert pace.slack == SLACK
    assert not pace.is_fast
