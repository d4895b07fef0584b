"""Run by its path, as a script: this module becomes the program's `__main__`, and leaves nothing in it."""

import os
import signal
import sys

# Blocked until the program begins: SystemExit in the code before it would be printed on stderr.
mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if not sys.flags.safe_path:
    del sys.path[0]  # everycore's own folder, which Python puts there for a script
if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
    sys.path[:] = path.split("\n")  # in the format of `ops.interpreter`
from everycore.system import garbage  # noqa: E402 - the signal is blocked first

garbage.rest()  # until the program begins
from everycore.launch.runner import main  # noqa: E402

main(globals(), mask)
