"""Warnings about one worker's requests."""

import logging

from everycore.primary.telling import MOST_TOLD, Told


def test_each_sentence_once_and_not_without_end(caplog):
    with caplog.at_level(logging.WARNING):
        told = Told(7)
        for number in range(3 * MOST_TOLD):
            told.tell(f"no {number}")
            told.tell(f"no {number}")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:MOST_TOLD] == [f"worker 7: no {number}" for number in range(MOST_TOLD)]
    last = "worker 7: more than 16 of its requests were refused; further ones are not logged"
    assert lines[MOST_TOLD:] == [last]


def test_what_a_worker_writes_ends_no_line_and_commands_no_terminal(caplog):
    Told(7).tell("cannot listen on /x\n2026-11-28 [primary] INFO forged \x1b[31m" + "x" * 5000)
    line = caplog.records[0].getMessage()
    assert line.startswith(r"worker 7: cannot listen on /x\n2026-11-28 [primary] INFO forged \x1b[31mxxx")
    assert len(line) < 500
