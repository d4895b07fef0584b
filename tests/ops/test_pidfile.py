"""The pid file: written, removed, and left alone if it belongs to another process."""

import os
import subprocess
import sys

import pytest

from everycore.errors import ConfigurationError
from everycore.ops.pidfile import pid_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pid"


def dead() -> int:
    """The id of a process that has ended."""
    return int(
        subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True).stdout
    )


@pytest.mark.parametrize("umask", [0o000, 0o007, 0o077])
def test_others_read_it_and_the_owner_alone_writes_it(path, umask):
    before = os.umask(umask)
    try:
        with pid_file(str(path)):
            assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_it_is_there_within_the_block(path):
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert list(path.parent.iterdir()) == []


def test_none_is_none():
    with pid_file(None):
        pass


@pytest.mark.parametrize("old", ["", "x", "0", "-1", "99999999999999"])
def test_a_file_that_names_no_process_is_overwritten(path, old):
    path.write_text(old)
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_that_of_a_dead_process_is_written_over(path):
    path.write_text(str(dead()))
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_that_of_a_living_process_is_left_alone(path):
    path.write_text(str(os.getppid()))
    with pytest.raises(ConfigurationError, match=f"names process {os.getppid()}, which is alive"):
        with pid_file(str(path)):
            pass
    assert path.read_text() == str(os.getppid())


def test_the_own_number_is_that_of_an_earlier_run_in_a_container(path):
    path.write_text(str(os.getpid()))
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_one_that_another_process_has_replaced_is_not_removed(path):
    with pid_file(str(path)):
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_a_place_where_none_can_be(tmp_path):
    with pytest.raises(ConfigurationError, match=r"--pid: cannot write .*there is no folder"):
        with pid_file(str(tmp_path / "no" / "x.pid")):
            pass


def test_anything_but_a_file_is_left_alone(path):
    os.mkfifo(path)  # to read it would wait, and to write it would replace it
    with pytest.raises(ConfigurationError, match="it is not a regular file"):
        with pid_file(str(path)):
            pass
    assert path.is_fifo()


def test_a_link_stays_a_link(path, tmp_path):
    path.symlink_to(tmp_path / "real.pid")
    with pid_file(str(path)):
        assert path.is_symlink()
        assert (tmp_path / "real.pid").read_text() == f"{os.getpid()}\n"
    assert path.is_symlink()
    assert not path.exists()
