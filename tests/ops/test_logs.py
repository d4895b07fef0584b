"""What our handlers say of a stream that cannot be written, and of a record that cannot be formatted."""

import contextlib
import io
import logging

import pytest

from everycore.ops.access_log import access_handler
from everycore.ops.logs import QuietHandler


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def record(*args):
    return logging.LogRecord("everycore", logging.INFO, __file__, 1, "%d items", args, None)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Full(), closed()], ids=["full", "closed"])
def test_a_stream_that_cannot_be_written_is_passed_over(stream, capsys):
    QuietHandler(stream).handle(record(3))
    assert capsys.readouterr().err == ""


def test_a_mistake_in_a_record_is_told(capsys):
    QuietHandler(io.StringIO()).handle(record("three"))
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize(("item", "told"), [(3, ""), ("three", "--- Logging error ---")])
def test_a_full_disk_under_the_access_log_is_passed_over(item, told, capsys):
    handler = access_handler("/dev/full", None, QuietHandler(io.StringIO()))
    handler.handle(record(item))
    with contextlib.suppress(OSError):  # of what is still in its buffer
        handler.close()
    said = capsys.readouterr().err
    assert told in said
    assert bool(told) == bool(said)
