"""Run by its path, as a script: this very module becomes the program's `__main__`; nothing stays in it."""

import os
import signal
import sys

# Until the program begins. SystemExit in what comes before would be told of on stderr, by whatever it hits.
mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if not sys.flags.safe_path:
    del sys.path[0]  # our own folder, which python puts there for a script
if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
    sys.path[:] = path.split("\n")  # as `ops.interpreter` has written it
from everycore.system import garbage  # noqa: E402 - the signal first

garbage.rest()  # until the program begins
from everycore.launch.runner import main  # noqa: E402

main(globals(), mask)
