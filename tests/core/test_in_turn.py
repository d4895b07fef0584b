"""Inputs are handled one after the other, including those that the handling of one causes."""

import pytest

from everycore.core.in_turn import InTurn


def test_an_input_waits_until_the_one_before_it_is_handled():
    seen = []

    def handle(given):
        seen.append(("begins", given))
        if given == "a":
            inputs.tell("b")
        seen.append(("ends", given))

    inputs = InTurn(handle)
    inputs.tell("a")
    assert seen == [("begins", "a"), ("ends", "a"), ("begins", "b"), ("ends", "b")]


@pytest.mark.parametrize("forgets", [False, True])
def test_what_waits_behind_a_failure_is_handled_with_the_next_input_or_forgotten(forgets):
    seen = []

    def handle(given):
        seen.append(given)
        if given == "a":
            inputs.tell("b")
            raise LookupError(given)

    inputs = InTurn(handle)
    with pytest.raises(LookupError):
        inputs.tell("a")
    if forgets:
        inputs.clear()
    inputs.tell("c")
    assert seen == (["a", "c"] if forgets else ["a", "b", "c"])
