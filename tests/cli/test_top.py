"""`everycore top`, as typed: in a terminal of the test, and without one."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from everycore.cli.main import main
from tests.kit import scaled


@pytest.mark.slow
@pytest.mark.limit(90)
def test_a_service_in_a_terminal(serve):
    served = serve("--name", "shop", workers=1)
    ours, theirs = pty.openpty()
    words = [sys.executable, "-P", "-m", "everycore", "top", "--pid", str(served.program.pid)]
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "30"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    try:
        wait_for(ours, b"shop (serve, pid ")
        wait_for(ours, b"ready")
        os.write(ours, b"q")
        read_to_the_end(ours)
        assert process.wait(scaled(20)) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert served.program.finish() == 0


def wait_for(fd, text, seen=b""):
    deadline = time.monotonic() + scaled(30)
    while text not in seen:
        assert select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0], seen[-2000:]
        seen += os.read(fd, 65536)


def read_to_the_end(fd):
    """Read on: otherwise it could not end."""
    deadline = time.monotonic() + scaled(30)
    while select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            if not os.read(fd, 65536):
                return
        except OSError:  # nobody has the other end
            return


def test_textual_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "textual", None)
    assert main(["top"]) == 2
    assert "everycore: top: needs textual: pip install 'everycore[top]'\n" in capsys.readouterr().err


def test_there_is_no_terminal(monkeypatch, capsys):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "__stdin__", nothing)
        assert main(["top"]) == 2
    assert "everycore: top: needs a terminal; everycore status prints" in capsys.readouterr().err
