"""`open_plain`: files are read, and everything else is refused without waiting."""

import os
import socket

import pytest

from everycore.system.plain_files import open_plain


def test_a_file_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"text")
    with open_plain(str(tmp_path / "x")) as file:
        assert file.read() == b"text"


def test_nothing_is_an_empty_file():
    with open_plain(os.devnull) as file:
        assert file.read() == b""


def test_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_plain(str(tmp_path))


def test_a_fifo_without_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="it is not a regular file"):
        open_plain(str(tmp_path / "x"))


def test_a_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "x"))
        with pytest.raises(OSError, match="No such device or address"):
            open_plain(str(tmp_path / "x"))


@pytest.mark.parametrize("path", ["nothing", "a\0b"])
def test_what_is_not_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"No such file|no file has such a name"):
        open_plain(path)
