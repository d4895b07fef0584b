"""Log files that were moved away, and are reopened."""

import contextlib
import gzip
import io
import logging
import os
from logging.handlers import MemoryHandler, RotatingFileHandler, WatchedFileHandler

import pytest

from everycore.system import logfiles


@pytest.fixture
def logger():
    logger = logging.getLogger("tests.logfiles")
    logger.propagate = False
    return logger


@pytest.fixture
def add(logger):
    """Add a handler to it for the duration of the test."""
    added = []

    def add_it(handler):
        logger.addHandler(handler)
        added.append(handler)
        return handler

    yield add_it
    for handler in added:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def rotate(path) -> None:
    path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize("kind", [logging.FileHandler, WatchedFileHandler, RotatingFileHandler])
@pytest.mark.parametrize("mode", ["a", "w"])
def test_what_is_logged_later_goes_to_the_new_file(logger, add, path, kind, mode):
    add(kind(path, mode=mode, encoding="utf-16-le"))
    logger.warning("before")
    rotate(path)
    logfiles.reopen()
    logger.warning("after")
    assert path.read_text("utf-16-le") == "after\n"
    assert path.with_suffix(".1").read_text("utf-16-le") == "before\n"


def test_no_descriptor_is_left(logger, add, path):
    handler = add(logging.FileHandler(path))
    number = os.fstat(handler.stream.fileno()).st_ino
    rotate(path)
    logfiles.reopen()
    links = [os.stat(int(fd)).st_ino for fd in os.listdir("/proc/self/fd") if _is_open(int(fd))]
    assert number not in links


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_file_that_is_where_it_was_keeps_its_lines(logger, add, path, mode):
    add(logging.FileHandler(path, mode=mode))
    logger.warning("before")
    logfiles.reopen()
    logger.warning("after")
    assert path.read_text() == "before\nafter\n"


def test_a_new_file_that_another_worker_has_written_to_keeps_its_lines(logger, add, path):
    add(logging.FileHandler(path, mode="w"))
    rotate(path)
    path.write_text("of another worker\n")
    logfiles.reopen()
    logger.warning("after")
    assert path.read_text() == "of another worker\nafter\n"


def test_one_behind_a_memory_handler(logger, add, path):
    with contextlib.closing(logging.FileHandler(path)) as target:
        add(MemoryHandler(1, target=target))
        rotate(path)
        logfiles.reopen()
        logger.warning("after")
        assert path.read_text() == "after\n"


def test_one_that_cannot_be_opened_goes_on_and_says_so(logger, add, path, caplog):
    add(logging.FileHandler(path))
    old = path.with_suffix(".1")
    rotate(path)
    path.symlink_to(path.parent / "no such folder" / "log")
    logfiles.reopen()
    logger.warning("after")
    assert old.read_text() == "after\n"
    assert f"cannot reopen the log file {str(path)!r}, so the old file stays in use: [Errno 2]" in caplog.text


def test_one_that_cannot_be_opened_does_not_stop_the_others(logger, add, path, tmp_path):
    other = tmp_path / "other"
    broken = add(logging.FileHandler(path))
    add(logging.FileHandler(other))
    broken.stream.close()
    rotate(other)
    rotate(path)
    logfiles.reopen()
    assert other.exists()
    broken.stream = None  # so that its close does not complain


def test_anything_but_a_regular_file_is_left(logger, add, path):
    """Opening a FIFO without a reader would wait."""
    handler = add(logging.FileHandler(path))
    stream = handler.stream
    path.unlink()
    os.mkfifo(path)
    logfiles.reopen()
    assert handler.stream is stream


def test_one_that_has_not_been_opened_yet_stays_so(logger, add, path):
    add(logging.FileHandler(path, delay=True))
    logfiles.reopen()
    assert not path.exists()


class Packed(logging.FileHandler):
    """A handler that opens its file in its own way."""

    def _open(self):
        return gzip.open(self.baseFilename, "at")


def test_what_a_handler_opens_in_a_way_of_its_own_is_left(logger, add, path):
    handler = add(Packed(path))
    stream = handler.stream
    assert isinstance(stream, io.TextIOWrapper)
    rotate(path)
    logfiles.reopen()
    assert handler.stream is stream
