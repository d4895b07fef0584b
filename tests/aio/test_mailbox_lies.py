"""Histories of a peer that sends anything, while the program at this end goes on: `tests.kit.strange_peers`.

A fuzzer drives the same: `tools/fuzz.py`.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everycore import testing
from tests.kit.choices import FromHypothesis
from tests.kit.strange_peers import conversation


@pytest.mark.slow
@pytest.mark.limit(120)
def test_whatever_it_says_nothing_leaks_and_the_end_is_told_once():
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(1, 25))
    def conversations(data, acts):
        testing.run(conversation(FromHypothesis(data), range(acts)))

    conversations()
