"""The command `everycore`, and `python -m everycore`."""

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run this process's command line; return the exit status."""
    # First of all, for what follows takes a while to import.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _load_anyway)
    from everycore.cli.main import main as run

    status = run()
    # The process ends. To take apart what it has imported would cost a tenth of a second of processor time.
    gc.freeze()
    return status


def _load_anyway(_number: int, _: FrameType | None) -> None:
    """Nothing is loaded yet that a reload would load again."""


def _end(number: int, _: FrameType | None) -> None:
    """Nothing has begun, so nothing is to be stopped: SIGINT is death by it, SIGTERM status 0."""
    if number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # process 1 of a container does not die by that
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
