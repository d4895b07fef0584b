"""The two signals that ask a worker for the stacks of its threads and of its tasks.

From its start a worker handles the first one by faulthandler, in C, so it prints the stacks even while Python
does not run. SIGQUIT would end the process, so other signals are used, ones that a program is unlikely to
use: real-time signals have no predefined meaning (signal(7)), libraries count from SIGRTMIN up, and these are
close to SIGRTMAX. Such a signal ends a process without a handler: the sender checks first
(`processes.hears`).
"""

from __future__ import annotations

import signal
from typing import Final

#: Outside Linux there is no such signal, and it is never sent.
STACKS: Final = int(getattr(signal, "SIGRTMAX", 1)) - 1
#: Handled in Python, so only an event loop that still runs answers it (`aio.task_stacks`).
TASKS: Final = STACKS - 1
