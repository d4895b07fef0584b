"""`python -m everycore.observer JOB`: see `everycore.observer.program`."""

import os
import signal
import sys

if __name__ == "__main__":
    # A supervisor that stops a service may send these to all its processes: this one ends with the primary.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
        sys.path[:] = path.split("\n")  # as `ops.interpreter` has written it
    from everycore.observer.program import main

    sys.exit(main(sys.argv))
