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
    _have_go_on(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    from everycore.system import garbage

    garbage.rest()  # until a pool runs
    from everycore.system.terminal import has_terminal

    if not has_terminal():
        _have_go_on(signal.SIGTTIN, signal.SIGTTOU)
    from everycore.foreign.spared_imports import without

    with without("ssl", "typing_extensions"):
        import asyncio  # noqa: F401 - for what follows

        import msgspec  # noqa: F401
    from everycore.cli.main import main as run

    status = run()
    # The process ends. To take apart what it has imported would cost a tenth of a second of processor time.
    gc.freeze()
    return status


def _have_go_on(*numbers: signal.Signals) -> None:
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _go_on)


def _go_on(_number: int, _: FrameType | None) -> None:
    """Nothing is loaded or open yet that would be loaded or opened again, and no worker is there."""


def _end(number: int, _: FrameType | None) -> None:
    """Nothing has begun, so nothing is to be stopped: SIGINT is death by it, SIGTERM status 0."""
    if number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # process 1 of a container does not die by that
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
