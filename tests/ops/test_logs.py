"""What our handlers say of a stream that cannot be written, and of a record that cannot be formatted."""

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


def test_a_full_disk_under_the_access_log_is_passed_over(tmp_path, capsys):
    handler = access_handler(str(tmp_path / "access"), None, QuietHandler(io.StringIO()))
    handler.handle(record("three"))
    assert "--- Logging error ---" in capsys.readouterr().err
    assert isinstance(handler, logging.FileHandler)
    file = handler.setStream(Full())
    assert file is not None
    file.close()
    handler.handle(record(3))
    assert capsys.readouterr().err == ""
    handler.close()
