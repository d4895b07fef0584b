"""Fixtures of the translated tests: the policy, and the loop, under which each runs."""

import pytest

from everycore.testing import VirtualTimeLoop


@pytest.fixture(autouse=True)
def in_its_own_time(time_to_end: None) -> None:
    """Any test here may have real workers, which need some time to end."""


@pytest.fixture(params=["round_robin", pytest.param("shared", marks=pytest.mark.ci_only)])
def policy(request: pytest.FixtureRequest) -> str:
    """Node's SCHED_RR in the default run; SCHED_NONE with `-m ci_only`, as in continuous integration.

    For `Cluster(policy=policy)`. A test of one policy alone names that and does not take this.
    """
    name: str = request.param
    return name


@pytest.fixture
def loop_factory() -> type[VirtualTimeLoop]:
    """For a test of what the primary alone decides, with fake workers: its loop runs in virtual time."""
    return VirtualTimeLoop
