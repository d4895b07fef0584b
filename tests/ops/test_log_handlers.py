"""What everycore's handlers do with a stream that cannot be written, and a file that was moved away."""

import contextlib
import fcntl
import io
import json
import logging
import os

import pytest

from everycore.ops.log_formats import Speaker, formatter
from everycore.ops.log_handlers import LogFile, QuietHandler


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def record(*args):
    return logging.LogRecord("everycore", logging.INFO, __file__, 1, "%d items", args, None)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture
def path(tmp_path):
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "log"


@pytest.fixture
def opened(path):
    """Open a log file, by default at `path`."""
    with contextlib.ExitStack() as stack:

        def open_it(where=path, **rest):
            return stack.enter_context(contextlib.closing(LogFile(str(where), **rest)))

        yield open_it


@pytest.mark.parametrize("stream", [Full(), closed()], ids=["full", "closed"])
def test_a_stream_that_cannot_be_written_is_passed_over(stream, capsys):
    QuietHandler(stream).handle(record(3))
    assert capsys.readouterr().err == ""


def test_a_mistake_in_a_record_is_told(capsys):
    QuietHandler(io.StringIO()).handle(record("three"))
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize(("item", "told"), [(3, ""), ("three", "--- Logging error ---")])
def test_a_full_disk_under_a_log_file_is_passed_over(item, told, opened, capsys):
    opened("/dev/full").handle(record(item))
    said = capsys.readouterr().err
    assert told in said
    assert bool(told) == bool(said)


def test_two_processes_append_to_one_file(opened, path):
    path.write_text("before\n")
    first, second = opened(), opened()
    for number, handler in enumerate((first, second, first)):
        handler.handle(record(number))
    assert path.read_text() == "before\n0 items\n1 items\n2 items\n"


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_file_that_was_moved_away(opened, path, is_watched):
    handler = opened(is_watched=is_watched)
    handler.handle(record(1))
    old = path.rename(path.with_name("log.1"))
    handler.handle(record(2))
    if not is_watched:
        assert old.read_text() == "1 items\n2 items\n"
        handler.reopen()
        handler.handle(record(2))
    assert path.read_text() == "2 items\n"


def test_a_watched_file_whose_folder_is_gone_is_told_once(opened, path, tmp_path, caplog):
    handler = opened(is_watched=True)
    path.parent.rename(tmp_path / "gone")
    for number in range(3):
        handler.handle(record(number))
    assert (tmp_path / "gone" / "log").read_text() == "0 items\n1 items\n2 items\n"
    assert caplog.text.count("so the old file stays in use") == 1
    path.parent.mkdir()
    handler.handle(record(3))
    assert path.read_text() == "3 items\n"
    path.unlink()
    path.parent.rmdir()
    for number in range(2):
        handler.handle(record(number))
    assert caplog.text.count("so the old file stays in use") == 2


def test_one_that_cannot_be_opened_anew_goes_on(opened, path, tmp_path):
    handler = opened()
    path.parent.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        handler.reopen()
    handler.handle(record(1))
    assert (tmp_path / "gone" / "log").read_text() == "1 items\n"


def test_the_reader_of_a_fifo_keeps_no_process_waiting(opened, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        opened(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        size = fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        handler = opened(pipe)
        for number in range(size):  # more than the pipe holds
            handler.handle(record(number))
        assert os.read(reader, size).startswith(b"0 items\n1 items\n")
    finally:
        os.close(reader)


def test_what_was_dropped_is_told_in_the_format_of_the_log(opened, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        handler = opened(pipe)
        handler.setFormatter(formatter("json", Speaker("worker", 3)))
        while not handler.stream.dropped:
            handler.handle(record(1))
        lines = []
        while not handler.stream.push():
            lines += reader.readlines()
        lines += reader.readlines()
    found = [json.loads(line) for line in b"".join(lines).splitlines()]
    assert (found[-1]["message"].partition(":")[0], found[-1]["worker"]) == ("1 lines are missing here", 3)


def test_after_a_line_that_was_cut_off_the_next_one_begins_anew(opened, path, monkeypatch):
    handler = opened()
    lengths = [3, -1]
    write = os.write

    def of_a_full_disk(fd, data):
        if not lengths:
            return write(fd, data)
        length = lengths.pop(0)
        if length < 0:
            raise OSError(28, "No space left on device")
        return write(fd, data[:length])

    monkeypatch.setattr(os, "write", of_a_full_disk)
    for number in range(3):
        handler.handle(record(number))
    assert path.read_text() == "0 i\n1 items\n2 items\n"


def test_closing_all_handlers_does_not_silence_it(opened, path):
    """Applications do so by `logging.config.dictConfig`."""
    handler = opened()
    handler.close()
    handler.handle(record(1))
    handler.close()
    handler.handle(record(2))
    assert path.read_text() == "1 items\n2 items\n"


def test_nothing_is_written_once_it_has_ended(opened, path):
    handler = opened()
    handler.end()
    handler.handle(record(1))
    assert path.read_text() == ""


def test_code_that_writes_there_by_itself_learns_which_file_it_is(opened, path):
    """faulthandler does, for the stacks of a stuck worker."""
    handler = opened()
    told: list[int] = []
    handler.follow(told.append)
    path.rename(path.with_name("log.1"))
    handler.reopen()
    os.write(told[-1], b"stacks\n")
    assert path.read_text() == "stacks\n"
    handler.close()
    assert told[-1] == 2
    handler.handle(record(1))
    assert os.path.samestat(os.fstat(told[-1]), path.stat())
    assert len(told) == 4
