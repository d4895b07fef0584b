"""The settings of the tree that name a user: whom workers become, and whom files belong to."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from everycore.config.kinds import ADDRESS, Mode, Several, Text
from everycore.config.sections import ADDRESSES, WORKERS
from everycore.config.setting import Setting

_USER: Final = "Who workers are: name or number. The primary stays who it is, and binds."
_GROUP: Final = "Their group, in place of that of --user."


def _who(metavar: str, help: str, default: str, *also: str) -> Setting:
    return Setting(Text(metavar), help, WORKERS, also=also, default=default, is_fixed=True)


UserName: TypeAlias = Annotated[str | None, _who("USER", _USER, "who starts", "--uid")]
GroupName: TypeAlias = Annotated[str | None, _who("GROUP", _GROUP, "the user's", "--gid")]
#: With gunicorn's letters. To `run` they would be the program's interpreter's: `python -u`.
UserNameShort: TypeAlias = Annotated[str | None, _who("USER", _USER, "who starts", "-u", "--uid")]
GroupNameShort: TypeAlias = Annotated[str | None, _who("GROUP", _GROUP, "the user's", "-g", "--gid")]

Permitted: TypeAlias = Annotated[
    tuple[str, ...],
    Setting(
        Several(ADDRESS),
        "What the program may listen on, with --user: as --bind of serve has it; may be repeated.",
        ADDRESSES,
        default="with --user nothing, else anything",
        is_fixed=True,
    ),
]
SocketMode: TypeAlias = Annotated[
    int | None,
    Setting(
        Mode(),
        "Permissions of unix sockets.",
        ADDRESSES,
        also=("--uds-permissions",),
        default="0o777 without the umask",
        is_fixed=True,
    ),
]
SocketOwner: TypeAlias = Annotated[
    str | None,
    Setting(
        Text("USER[:GROUP]"),
        "Whom unix sockets belong to.",
        ADDRESSES,
        default="--user, else who starts",
        is_fixed=True,
    ),
]
