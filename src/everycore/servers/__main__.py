"""`python -m everycore.servers JOB`: see `everycore.servers.program`.

A SIGTERM is only noted until the program's event loop can take it. Otherwise it would raise SystemExit
wherever we happen to be, in the bookkeeping of the import system and in the making of the loop too, which
then complain about it on stderr, beside the one report that the user is to read.
"""

import os
import signal
import sys

if __name__ == "__main__":
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
        sys.path[:] = path.split("\n")  # as `ops.interpreter` has written it
    from everycore.servers.program import main

    sys.exit(main(sys.argv, told))
