"""Whom unix sockets belong to (`--socket-owner`).

Read USER[:GROUP], and give the sockets of a pool away as they are made. Invariant: what this process may
not do is said before anything starts.
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
#: What chown(2) takes for "as it is".
_SAME = -1
#: -1, as ids are unsigned.
_NO_ID = 2**32 - 1


def parse_owner(text: str) -> tuple[int, int]:
    """The ids of USER[:GROUP], -1 for what is not said. Raises ConfigurationError."""
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
        raise ConfigurationError(_OPTION, f"only root gives a socket to {text!r}")
    return uid, gid


def _number(text: str) -> int:
    """Raises KeyError for what is no id. The largest is -1 in disguise; digits of other scripts are none."""
    if not text.isascii() or len(text) > 10 or int(text) >= _NO_ID:
        raise KeyError(text)
    return int(text)


def give_sockets(pool: Pool, owner: tuple[int, int]) -> None:
    """Give every unix socket on which the pool listens to `owner`, from now on."""
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
            "%s cannot be given to %d:%d: %s", path, *owner, error.strerror
        )


def _give_away(name: bytes, owner: tuple[int, int]) -> None:
    """Change the owner of the socket `name`, and of nothing that somebody has put in its place meanwhile."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if stat.S_ISSOCK(found.st_mode) and found.st_nlink == 1:  # else it has a name elsewhere
            os.chown(f"/proc/self/fd/{fd}", *owner)
    finally:
        os.close(fd)
