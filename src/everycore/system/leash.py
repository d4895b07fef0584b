"""A leash ends a process when the process that started it ends, from its first instruction on, as any user.

The leash is a pipe whose writing end only the primary has. The reading end goes to the child, and is set to
send the child a signal when the writing end closes. The kernel closes it when the primary ends, for whatever
reason. The child need not know of the leash, and no code runs in it between fork and exec.

Facts (fcntl(2), F_SETOWN, F_SETSIG, O_ASYNC; fs/pipe.c, fs/fcntl.c): owner, signal and O_ASYNC belong to the
open file, which primary and child share across the fork, so the primary can set them from outside once it
knows the pid. The owner is that process, not its number. The credentials that count are those of the process
that set the owner (sigio_perm): a primary that runs as root reaches a child that has given up root.
PR_SET_PDEATHSIG, which the child requests when it imports everycore, comes later, and a change of user clears
it (prctl(2)).
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from everycore.system.descriptors import close_all

_F_SETSIG: Final = 10  # asm-generic/fcntl.h; Python has no name for it


class Leash:
    """Both ends of a leash. The child is started between `Leash()` and `tie()`."""

    def __init__(self) -> None:
        #: #: The child's end, to be passed to it.
        self.theirs, self._ours = os.pipe2(os.O_CLOEXEC)

    def tie(self, pid: int, signal: int, *, group: bool) -> int:
        """Let `signal` end process `pid`, or the process group that it leads, when this process ends.

        Returns the end that must stay open for as long as the child lives. The other end is the child's from
        now on. Raises OSError if there is no such process.
        """
        fcntl.fcntl(self.theirs, fcntl.F_SETOWN, -pid if group else pid)
        fcntl.fcntl(self.theirs, _F_SETSIG, signal)
        fcntl.fcntl(self.theirs, fcntl.F_SETFL, os.O_ASYNC)
        os.close(self.theirs)
        ours, self.theirs, self._ours = self._ours, -1, -1
        return ours

    def close(self) -> None:
        """Close the ends that are still here. Does nothing once the leash is tied."""
        fds = [fd for fd in (self.theirs, self._ours) if fd >= 0]
        self.theirs = self._ours = -1
        close_all(fds)
