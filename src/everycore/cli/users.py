"""`--user` and `--group`: who workers become, and what they may then have of a primary that stays who it is.

Invariant: what cannot be is said before anything starts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from everycore.config.common import CommonSettings
from everycore.errors import ConfigurationError
from everycore.servers.binds import Bind, FdBind, TcpBind, UnixBind
from everycore.system.machine import is_linux
from everycore.system.processes import Credentials, resolve_credentials

#: Of a setting of the library, the option that has it.
_OPTIONS: Final = {"uid": "--user", "gid": "--group"}


class WorkerUser(msgspec.Struct, frozen=True):
    """Who workers are. None: who we are. `addresses`: what they may listen on, for `Settings`."""

    uid: int | None = None
    gid: int | None = None
    addresses: tuple[Any, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """As `Settings` takes them."""
        return {"uid": self.uid, "gid": self.gid, "addresses": self.addresses}

    @property
    def owner(self) -> tuple[int, int] | None:
        """The ids of what is to be theirs; None: nothing is."""
        return None if self.uid is None or self.gid is None else (self.uid, self.gid)


def user_of(settings: CommonSettings, binds: Sequence[Bind], folder: str | None) -> WorkerUser:
    """Who workers become. Raises ConfigurationError.

    binds: where they are to listen; paths among them begin at `folder`.
    """
    if settings.user is None and settings.group is None:
        return WorkerUser()
    named = _credentials(settings)
    for option, mine, wanted in (("--user", os.geteuid(), named.uid), ("--group", os.getegid(), named.gid)):
        if wanted not in (None, mine) and os.geteuid() != 0:
            raise ConfigurationError(option, "only root starts workers of another user or group")
    if os.geteuid() != 0:
        return WorkerUser()  # they are that user and group already
    if not is_linux():
        raise ConfigurationError("--user", "needs a cluster, and that needs Linux")
    addresses = [address for bind in binds for address in _addresses(bind, folder)]
    return WorkerUser(named.uid, named.gid, tuple(dict.fromkeys(addresses)))


def _credentials(settings: CommonSettings) -> Credentials:
    try:
        return resolve_credentials(_who(settings.user), _who(settings.group), None, None)[0]
    except ConfigurationError as error:
        # A user without an entry in passwd(5) has no group of its own.
        option = _OPTIONS.get(error.setting, error.setting)
        raise ConfigurationError(option, error.problem) from None


def _who(text: str | None) -> int | str | None:
    """A number where it is one; the largest is -1 in disguise, and no id."""
    return int(text) if text and text.isascii() and text.isdigit() and int(text) < 2**32 - 1 else text


def _addresses(bind: Bind, folder: str | None) -> list[Any]:
    """The numeric addresses of a bind, as `Settings.addresses` takes them."""
    match bind:
        case UnixBind(path):
            return [os.path.join(folder or os.getcwd(), path)]
        case FdBind(fd):
            return [fd]
        case TcpBind(host, port):
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except socket.gaierror:  # the worker will say so, where it asks the same
                return []
            return [(address[0], port) for *_, address in found]
    return []
