"""`python -m everycore.servers JOB`: see `everycore.servers.program`.

The program is sure to have an event loop. A signal is only noted until that loop can take it. Otherwise
SystemExit would be raised wherever we happen to be, in the bookkeeping of the import system and in the making
of the loop too, which then complain about it on stderr, beside the one report that the user is to read.
"""

import os
import signal
import sys

if __name__ == "__main__" and (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
    sys.path[:] = path.split("\n")  # as `ops.interpreter` has written it

from everycore.system import garbage

if __name__ == "__main__":
    garbage.rest()  # until the application is loaded

from everycore import current
from everycore.worker.signals import print_stacks_at_quit

if __name__ == "__main__":
    told: list[int] = []
    session = current.session()
    if session is not None:
        session.signals.loop_begins()
        print_stacks_at_quit()
    else:
        signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    from everycore.servers.program import main

    sys.exit(main(sys.argv, told))
