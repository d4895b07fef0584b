"""A process dies with the one that started it, from its first instruction on, whatever user it becomes.

The leash is a pipe whose writing end is the primary's alone. The reading end goes with the child, and is told
to send it a signal when the writing end closes, which the kernel does when the primary ends, however that
comes about. The child need not know of it, and no code runs in it between fork and exec.

Facts (fcntl(2), F_SETOWN, F_SETSIG, O_ASYNC; fs/pipe.c, fs/fcntl.c): owner, signal and O_ASYNC belong to the
open file, which primary and child share across the fork, so the primary can set them from outside once it
knows the pid. The owner is that process, not its number. What counts is who set the owner (sigio_perm): a
primary of root reaches a child that has given up root. PR_SET_PDEATHSIG, which the child asks for when it
imports everycore, comes later, and a change of user clears it (prctl(2)).
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from everycore.system.descriptors import close_all

_F_SETSIG: Final = 10  # asm-generic/fcntl.h; Python has no name for it


class Leash:
    """Both ends; the child is started between `Leash()` and `tie()`."""

    def __init__(self) -> None:
        #: The child's end, to be passed to it.
        self.theirs, self._ours = os.pipe2(os.O_CLOEXEC)

    def tie(self, pid: int, signal: int, *, group: bool) -> int:
        """Let `signal` end process `pid`, or the process group that it leads, when we end.

        Returns the end to be kept for as long as the process lives. The other one is the child's from now on.
        Raises OSError, if there is no such process any more.
        """
        fcntl.fcntl(self.theirs, fcntl.F_SETOWN, -pid if group else pid)
        fcntl.fcntl(self.theirs, _F_SETSIG, signal)
        fcntl.fcntl(self.theirs, fcntl.F_SETFL, os.O_ASYNC)
        os.close(self.theirs)
        ours, self.theirs, self._ours = self._ours, -1, -1
        return ours

    def close(self) -> None:
        """Let go of what is left of it: nothing, once it is tied."""
        fds = [fd for fd in (self.theirs, self._ours) if fd >= 0]
        self.theirs = self._ours = -1
        close_all(fds)
