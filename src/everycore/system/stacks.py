"""The signals by which a worker is asked for the stacks of its threads, and for those of its tasks.

A worker handles it by faulthandler from its first moment on, in C: it prints while Python does not run. It is
not SIGQUIT, which ends a process, and none that a program is likely to use: real-time signals have no meaning
of their own (signal(7)), libraries count from SIGRTMIN on, and this one is next to the last. Sent to a
process without a handler it would end that: whoever sends it looks first (`processes.hears`).
"""

from __future__ import annotations

import signal
from typing import Final

#: Elsewhere than on Linux there is none, and nobody asks.
STACKS: Final = int(getattr(signal, "SIGRTMAX", 1)) - 1
#: Handled in Python, so that it is answered by a loop that goes on (`aio.task_stacks`).
TASKS: Final = STACKS - 1
