"""Signals before the command has begun."""

import subprocess
import sys

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


def test_hangup_ends_nothing_that_has_not_begun():
    """`systemctl reload` may come early; what it would load again has not been loaded yet."""
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_hangup_that_was_ignored_stays_ignored():
    source = EARLY.replace("os.kill", "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n    os.kill")
    shell = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", source]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
