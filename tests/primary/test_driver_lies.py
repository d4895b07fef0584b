"""Histories of a worker that lies at every step: it costs no other anything, and every end comes about.

Every message of the protocol on every pipe, with fields, bytes and descriptors of any kind; the board; ends
that are shut down; time; clients. A fuzzer drives the same: `tools/fuzz.py`.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everycore import testing
from tests.kit.choices import FromHypothesis
from tests.kit.liars import history


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.parametrize("policy", ["round_robin", "shared", "sticky"])
def test_it_costs_no_other_worker_anything(policy):
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(1, 15), st.booleans())
    def histories(data, lies, dies_alone):
        testing.run(history(FromHypothesis(data), policy, range(lies), dies_alone=dies_alone))

    histories()
