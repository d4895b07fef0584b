"""`python -m everycore.observer JOB`: see `everycore.observer.program`."""

import os
import signal
import sys

if __name__ == "__main__":
    # A service manager may send these to all processes of a service. The observer ends when the primary does.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
        sys.path[:] = path.split("\n")  # in the format of `ops.interpreter`
    from everycore.observer.program import main

    sys.exit(main(sys.argv))
