"""`python -m everycore.servers JOB`: see `everycore.servers.program`.

The program is sure to have an event loop, so a signal is only noted until that loop can take it. Otherwise
SystemExit could be raised anywhere, even in the import system's bookkeeping or in the loop's constructor.
These would complain about it on stderr, next to the one report that the user is to read.
"""

import os
import signal
import sys

if __name__ == "__main__" and (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
    sys.path[:] = path.split("\n")  # `ops.interpreter` writes it in this form

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
