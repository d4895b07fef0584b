"""Each step of an end is carried out, even if others fail."""

import logging

import pytest

from everycore.aio.steps import take_all


def test_one_that_raises_is_logged_and_keeps_none_from_being_taken(caplog):
    taken = []

    def fails():
        raise OSError(5, "no such luck")

    with caplog.at_level(logging.ERROR, "everycore"):
        take_all([lambda: taken.append(1), fails, lambda: taken.append(2)], "the end of it")
    assert taken == [1, 2]
    (record,) = caplog.records
    assert "the end of it" in record.message
    assert "no such luck" in caplog.text


def test_exceptions_other_than_errors_are_not_held_back():
    with pytest.raises(KeyboardInterrupt):
        take_all([_interrupt], "the end of it")


def _interrupt():
    raise KeyboardInterrupt
