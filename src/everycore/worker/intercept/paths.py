"""Socket files that a program removes although other workers serve there.

A program removes the file before it binds, taking it for a leftover, and removes it when it ends. Under
everycore, clients of the other workers would find no file until the primary puts it back. So the file stays
while others serve there. A program that finds the file of its own socket gone, because another worker was
faster, gets no error. Invariant: a file that is not that of another worker's listener is removed.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from typing import Any, Final

from everycore.errors import ChannelClosed
from everycore.worker.intercept import state
from everycore.worker.intercept.addresses import unix_path

#: The names of this worker's listeners that the program believes it has removed.
_told: Final[set[Any]] = set()


def install_on_files() -> None:
    """Install, once, after `installing.install`."""
    os.unlink = _standing_in_for(os.unlink)
    os.remove = _standing_in_for(os.remove)


def _standing_in_for(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def unlink(path: Any, *args: Any, **more: Any) -> None:
        if not args and not more and _is_anothers(path):
            return
        try:
            function(path, *args, **more)
        except FileNotFoundError:
            if args or more or not _was_own(path):
                raise

    return unlink


def _was_own(path: Any) -> bool:
    """Whether this worker has had a listener of that name. Returns True once for each."""
    where = unix_path(os.fspath(path))
    if where is None or where in _told or where not in state.left:
        return False
    _told.add(where)
    return True


def _is_anothers(path: Any) -> bool:
    """Whether another worker has a listener of that name."""
    if state.session is None:
        return False
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        where = unix_path(os.fspath(path))
        if where is not None:
            state.session.grants.check_remove(where)
    except ChannelClosed:
        return False
    except OSError as exc:
        return exc.errno == errno.ECONNREFUSED
    except (TypeError, ValueError):
        return False  # the kernel reports the error
    return False
