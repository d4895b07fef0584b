"""A stream that never waits: what is written at once, kept, dropped, and reported."""

import fcntl
import os
import select
import socket
from collections.abc import Iterator

import pytest

from everycore.system.outlet import Outlet

SMALLEST_PIPE = 4096
ROOM = 1000


def fill(fd: int) -> None:
    """Fill the pipe until not one byte fits. `fd` stays blocking: a writer would wait."""
    os.set_blocking(fd, False)
    try:
        for size in (4096, 1):
            try:
                while True:
                    os.write(fd, b"." * size)
            except BlockingIOError:
                continue
    finally:
        os.set_blocking(fd, True)


def drained(out: Outlet, fd: int) -> bytes:
    """Read everything: a pipe of one page has room again when it is empty."""
    found = everything(fd)
    while out.waits:
        out.push()
        found += everything(fd)
    return found


def everything(fd: int) -> bytes:
    """What can be read now."""
    found = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while any(event & select.POLLIN for _, event in poller.poll(0)):
        found += os.read(fd, 1 << 20)
    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture(params=["opened anew", "RWF_NOWAIT", "poll"])
def way(request, monkeypatch):
    """How a pipe is written: without /proc it can't be reopened, and old kernels have no RWF_NOWAIT."""

    def refused(*_: object) -> int:
        raise PermissionError(13, "as for another user's pipe")

    if request.param != "opened anew":
        monkeypatch.setattr(os, "open", refused)
    if request.param == "poll":
        monkeypatch.setattr(os, "pwritev", refused)
    return request.param


@pytest.fixture
def out(pipe, way) -> Iterator[Outlet]:
    with Outlet(pipe[1], room=ROOM) as opened:
        yield opened


def test_what_has_room_is_written_at_once(out, pipe):
    out.write("one two\n")
    assert everything(pipe[0]) == b"one two\n"
    assert not out.waits


def test_a_full_pipe_does_not_block_and_loses_nothing_that_fits(out, pipe):
    reader, writer = pipe
    fill(writer)
    out.write("first\n")
    out.write("second\n")
    assert out.waits
    assert not out.push()
    everything(reader)
    assert drained(out, reader) == b"first\nsecond\n"


def test_what_is_too_much_is_dropped_counted_and_told(out, pipe):
    reader, writer = pipe
    fill(writer)
    for number in range(300):
        out.write(f"line {number:4}\n")
    assert out.dropped == 200  # ten bytes a line
    everything(reader)
    lines = drained(out, reader).splitlines()
    assert lines[:100] == [b"line %4d" % number for number in range(100)]
    assert lines[100:] == [b"everycore: 200 lines are missing here: the reader of this log was too slow"]
    out.write("go on\n")
    assert everything(reader) == b"go on\n"
    assert out.dropped == 0


def test_a_long_line_is_written_in_parts(pipe, way):
    reader, writer = pipe
    text = "".join(f"{number:07}\n" for number in range(5000))
    with Outlet(writer) as out:
        out.write(text)
        assert drained(out, reader).decode() == text


def test_one_line_is_kept_however_long_it_is(pipe, way):
    reader, writer = pipe
    fill(writer)
    with Outlet(writer, room=10) as out:
        out.write("long enough\n")
        out.write("x\n")
        assert out.dropped == 1
        everything(reader)
        lines = drained(out, reader).splitlines()
    assert lines[0] == b"long enough"
    assert lines[1].startswith(b"everycore: 1 lines are missing")


def test_a_file_takes_a_line_of_any_length(tmp_path):
    with (tmp_path / "log").open("w") as file, Outlet(file.fileno(), room=10) as out:
        out.write("x" * 100 + "\n")
        assert out.dropped == 0
    assert (tmp_path / "log").stat().st_size == 101


def test_the_mode_of_the_shared_file_does_not_matter(out, pipe):
    """everycore neither sets it nor relies on it: others have the same open file."""
    assert os.get_blocking(pipe[1])
    fill(pipe[1])
    out.write("kept\n")
    assert os.get_blocking(pipe[1])


def test_without_a_reader_writing_fails_as_ever(out, pipe):
    reader, writer = pipe
    fill(writer)
    out.write("kept\n")
    spare = os.dup(writer)
    os.dup2(spare, reader)  # the reading end is gone; the fixture has a number to close
    os.close(spare)
    with pytest.raises(BrokenPipeError):
        out.write("more\n")
    assert not out.waits


def test_a_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs, Outlet(ours.fileno(), room=ROOM) as out:
        ours.setblocking(True)
        while not out.waits:
            out.write("." * 99 + "\n")
        assert ours.getblocking()
        theirs.setblocking(False)
        while out.waits:
            theirs.recv(1 << 20)
            out.push()


def test_a_file_is_shared_with_its_other_writers(tmp_path):
    with open(tmp_path / "log", "w+b", buffering=0) as file, Outlet(file.fileno()) as out:
        file.write(b"before\n")
        out.write("ours\n")
        file.write(b"after\n")
        file.seek(0)
        assert file.read() == b"before\nours\nafter\n"


def test_text_that_cannot_be_encoded(pipe):
    with Outlet(pipe[1], encoding="ascii") as out:
        out.write("caf\xe9 \udce9\n")
    assert everything(pipe[0]) == b"caf\\xe9 \\udce9\n"


def test_at_the_end_the_reader_has_a_last_chance(pipe):
    reader, writer = pipe
    out = Outlet(writer)
    fill(writer)
    out.write("the last word\n")
    everything(reader)
    out.finish(patience=60)
    assert everything(reader) == b"the last word\n"
    assert out.closed


def test_at_the_end_nobody_is_waited_for_longer(pipe):
    out = Outlet(pipe[1])
    fill(pipe[1])
    out.write("never read\n")
    out.finish(patience=0)
    assert out.closed


def test_a_fork_has_nothing_to_write_of_its_parents(pipe):
    reader, writer = pipe
    with Outlet(writer) as out:
        fill(writer)
        out.write("the parent's\n")
        with out._lock:  # as if another thread wrote at that moment
            child = os.fork()
        if not child:
            os._exit(0 if not out.waits and out._lock.acquire(blocking=False) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        everything(reader)
        assert out.push()
        assert everything(reader) == b"the parent's\n"
