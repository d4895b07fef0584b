"""The signals by which a worker is asked for the stacks of its threads, and for those of its tasks.

A worker handles it by faulthandler from its start, in C, so it prints the stacks even while Python does not
run. SIGQUIT would end the process, so another signal is used, one that a program is unlikely to use:
real-time signals have no predefined meaning (signal(7)), libraries count from SIGRTMIN up, and this one is
next to the last. It ends a process without a handler: the sender checks first (`processes.hears`).
"""

from __future__ import annotations

import signal
from typing import Final

#: Outside Linux there is no such signal, and it is never sent.
STACKS: Final = int(getattr(signal, "SIGRTMAX", 1)) - 1
#: Handled in Python, so that it is answered by a loop that goes on (`aio.task_stacks`).
TASKS: Final = STACKS - 1
