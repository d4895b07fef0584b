"""What an error of accept(2) means for a listener, in the primary and in the workers alike."""

from __future__ import annotations

import enum
import errno
from typing import Final


class Trouble(enum.Enum):
    """Why accept(2) returned no connection."""

    #: The error belongs to one connection and arrived with it. The next connection may be sound.
    CONNECTION = enum.auto()
    #: The socket does not listen, or no longer does.
    LISTENER = enum.auto()
    #: No descriptor or memory is left, or the error is unknown. Try again after a pause: connections wait in
    #: the backlog meanwhile.
    PAUSE = enum.auto()


#: accept(2), "Error handling": Linux reports pending network errors of the new socket as errors of the call.
_OF_THE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET}
    | {errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH}
)
_OF_THE_LISTENER: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
#: The length of a pause, in seconds.
PAUSE: Final = 0.1


def trouble_of(error: OSError) -> Trouble:
    """Classify `error`, raised by a non-blocking accept. EAGAIN and EINTR are not errors in this sense."""
    if error.errno in _OF_THE_CONNECTION:
        return Trouble.CONNECTION
    return Trouble.LISTENER if error.errno in _OF_THE_LISTENER else Trouble.PAUSE
