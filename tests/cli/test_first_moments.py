"""Signals before the command has begun."""

import subprocess
import sys

import pytest

#: Stands for the command line, which takes a while to import.
EARLY = """
import os, signal, sys, types
command = types.ModuleType("everycore.cli.main")
def main():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on", flush=True)
    return 0
command.main = main
sys.modules["everycore.cli.main"] = command
from everycore.__main__ import main
sys.exit(main())
"""


each = pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "TTIN", "TTOU"])


def early(name: str) -> str:
    return EARLY.replace("SIGHUP", f"SIG{name}")


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in a separate session: without a terminal TTIN and TTOU are handled."""
    return subprocess.run(argv, capture_output=True, text=True, start_new_session=True)


@each
def test_it_ends_nothing_that_has_not_begun(name):
    """`systemctl reload` and logrotate may come early: there is nothing yet to reload or reopen."""
    done = run([sys.executable, "-c", early(name)])
    assert (done.returncode, done.stdout) == (0, "goes on\n")


@each
def test_one_that_was_ignored_stays_ignored(name):
    check = f"assert signal.getsignal(signal.SIG{name}) is signal.SIG_IGN\n    os.kill"
    source = early(name).replace("os.kill", check)
    done = run(["sh", "-c", f"trap '' {name}; exec \"$@\"", "sh", sys.executable, "-c", source])
    assert (done.returncode, done.stdout) == (0, "goes on\n")
