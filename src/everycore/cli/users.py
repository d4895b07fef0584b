"""`--user` and `--group`: the user that workers run as, and the addresses that they may then listen on.

Invariant: a user or group that is impossible is reported before anything starts.
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

#: The command-line option of each setting of the library.
_OPTIONS: Final = {"uid": "--user", "gid": "--group"}


class WorkerUser(msgspec.Struct, frozen=True):
    """The uid and gid of workers; None is the primary's own. `addresses`: what they may listen on."""

    uid: int | None = None
    gid: int | None = None
    addresses: tuple[Any, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `Settings`."""
        return {"uid": self.uid, "gid": self.gid, "addresses": self.addresses}

    @property
    def owner(self) -> tuple[int, int] | None:
        """The uid and gid of files that are made for workers; None if the workers are the primary's user."""
        return None if self.uid is None or self.gid is None else (self.uid, self.gid)


def user_of(settings: CommonSettings, binds: Sequence[Bind], folder: str | None) -> WorkerUser:
    """The user that workers run as. Raises ConfigurationError.

    binds: the addresses that workers are to listen on. Paths among them begin at `folder`.
    """
    if settings.user is None and settings.group is None:
        return WorkerUser()
    named = _credentials(settings)
    for option, mine, wanted in (("--user", os.geteuid(), named.uid), ("--group", os.getegid(), named.gid)):
        if wanted not in (None, mine) and os.geteuid() != 0:
            raise ConfigurationError(option, "only root starts workers as another user or group")
    if os.geteuid() != 0:
        return WorkerUser()  # the primary is that user and group already
    if not is_linux():
        raise ConfigurationError("--user", "needs a cluster, and a cluster needs Linux")
    addresses = [address for bind in binds for address in _addresses(bind, folder)]
    return WorkerUser(named.uid, named.gid, tuple(dict.fromkeys(addresses)))


def _credentials(settings: CommonSettings) -> Credentials:
    try:
        return resolve_credentials(_who(settings.user), _who(settings.group), None, None)[0]
    except ConfigurationError as error:
        # A user without an entry in passwd(5) has no primary group.
        option = _OPTIONS.get(error.setting, error.setting)
        raise ConfigurationError(option, error.problem) from None


def _who(text: str | None) -> int | str | None:
    """The text as a number, if it is one. The largest 32-bit number means -1, which is not an id."""
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
            except socket.gaierror:  # the worker resolves the same name, and reports the error
                return []
            return [(address[0], port) for *_, address in found]
    return []
