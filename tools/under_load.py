"""Runs a command while other processes compute, so that CPUs are scarce: a condition that tests must bear.

    python tools/under_load.py [--processes 4] [--limit 3600] COMMAND [ARGUMENT ...]

The processes that compute end with the command, with this process however it ends, and at the limit (in
seconds) in any case. The exit status is the command's.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

#: Computes until its standard input ends or the time is over. The thread that reads hardly uses a CPU.
BUSY = """
import os, sys, threading, time
def leave_with_the_tool():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=leave_with_the_tool, daemon=True).start()
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a command while other processes compute.")
    parser.add_argument("--processes", type=int, default=4, help="how many compute (default: 4)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds, at most (default: 3600)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("no command")
    with load(arguments.processes, arguments.limit):
        return run(arguments.command)


@contextlib.contextmanager
def load(processes: int, limit: float) -> Iterator[None]:
    """Within the block, this many processes compute."""
    reading, writing = os.pipe()  # no process inherits the writing end, so it closes with this one
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            argv = [sys.executable, "-c", BUSY, str(limit)]
            started.append(subprocess.Popen(argv, stdin=reading, process_group=0))  # Ctrl-C does not reach it
        yield
    finally:
        os.close(reading)
        os.close(writing)
        for process in started:
            process.kill()
            process.wait()


def run(command: list[str]) -> int:
    """The command's exit status, as a shell reports it."""
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the command as well
    children.append(subprocess.Popen(command))
    status = children[0].wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
