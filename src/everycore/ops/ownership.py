"""The owner of unix sockets (`--socket-owner`).

This module parses USER[:GROUP], and changes the owner of a pool's sockets as they are made. Invariant: a
change that this process may not make is reported before anything starts.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from functools import partial
from typing import TYPE_CHECKING

from everycore.errors import ConfigurationError
from everycore.events import Listening
from everycore.system.sockets import reached

if TYPE_CHECKING:
    from everycore.pool import Pool

log = logging.getLogger("everycore.ops")
_OPTION = "--socket-owner"
#: The id that chown(2) takes for "unchanged".
_SAME = -1
#: The same id, -1, as an unsigned number.
_NO_ID = 2**32 - 1


def parse_owner(text: str) -> tuple[int, int]:
    """The ids of USER[:GROUP]; -1 for a part that is missing. Raises ConfigurationError."""
    user, colon, group = text.partition(":")
    if not user and not group:
        raise ConfigurationError(_OPTION, f"must be USER, USER:GROUP or :GROUP, not {text!r}")
    uid, gid = _SAME, _SAME
    try:
        if user:
            uid = _number(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        if colon and group:
            gid = _number(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(_OPTION, f"there is no such user or group: {text!r}") from None
    if os.geteuid() != 0 and (
        uid not in (_SAME, os.geteuid()) or gid not in (_SAME, os.getegid(), *os.getgroups())
    ):
        raise ConfigurationError(_OPTION, f"only root can give a socket to {text!r}")
    return uid, gid


def _number(text: str) -> int:
    """The id.

    Raises KeyError for text that is not an id, which the largest 32-bit number, -1, is not either.
    """
    if not text.isascii() or len(text) > 10 or int(text) >= _NO_ID:
        raise KeyError(text)
    return int(text)


def give_sockets(pool: Pool, owner: tuple[int, int]) -> None:
    """From now on, make `owner` the owner of every unix socket that the pool listens on."""
    pool.on(Listening, partial(_give, owner))


def _give(owner: tuple[int, int], event: Listening) -> None:
    path = event.address
    if not isinstance(path, str | bytes) or not path or path[:1] in ("\0", b"\0"):
        return
    try:
        with reached(path, is_guarded=True) as name:
            _give_away(name, owner)
    except OSError as error:
        log.error(  # noqa: TRY400 - a traceback says nothing more
            "cannot change the owner of %s to %d:%d: %s", path, *owner, error.strerror
        )


def _give_away(name: bytes, owner: tuple[int, int]) -> None:
    """Change the owner of the socket `name`, but not of anything that has been put in its place meanwhile."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if stat.S_ISSOCK(found.st_mode) and found.st_nlink == 1:  # more links: it has a name elsewhere
            os.chown(f"/proc/self/fd/{fd}", *owner)
    finally:
        os.close(fd)
