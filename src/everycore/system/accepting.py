"""What an error of accept(2) means for a listener, in the primary and in a worker alike."""

from __future__ import annotations

import enum
import errno
from typing import Final


class Trouble(enum.Enum):
    """Why accept(2) returned no connection."""

    #: The error is that connection's own, and came with it: the next one may be well.
    CONNECTION = enum.auto()
    #: The socket does not listen, or no more.
    LISTENER = enum.auto()
    #: No descriptors, no memory, or something unknown: look again after a pause. The backlog keeps who waits.
    PAUSE = enum.auto()


#: accept(2), "Error handling": Linux passes pending network errors of the new socket on as the call's own.
_OF_THE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET}
    | {errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH}
)
_OF_THE_LISTENER: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
#: Seconds of a pause.
PAUSE: Final = 0.1


def trouble_of(error: OSError) -> Trouble:
    """What `error`, raised by an accept that does not wait, means. Not for EAGAIN and EINTR."""
    if error.errno in _OF_THE_CONNECTION:
        return Trouble.CONNECTION
    return Trouble.LISTENER if error.errno in _OF_THE_LISTENER else Trouble.PAUSE
