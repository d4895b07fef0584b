"""The settings of the tree that name a user: the user of the workers, and the owner of sockets."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from everycore.config.kinds import ADDRESS, Mode, Several, Text
from everycore.config.sections import ADDRESSES, WORKERS
from everycore.config.setting import Setting

_USER: Final = "Run workers as this user: a name or a number. The primary keeps its user, and binds."
_GROUP: Final = "Run workers as this group, instead of the group of --user."


def _who(metavar: str, help: str, default: str, *also: str) -> Setting:
    return Setting(Text(metavar), help, WORKERS, also=also, default=default, is_fixed=True)


UserName: TypeAlias = Annotated[str | None, _who("USER", _USER, "the primary's", "--uid")]
GroupName: TypeAlias = Annotated[str | None, _who("GROUP", _GROUP, "the user's", "--gid")]
#: The same with gunicorn's letters. `run` lacks them: before a program, they belong to Python (`python -u`).
UserNameShort: TypeAlias = Annotated[str | None, _who("USER", _USER, "the primary's", "-u", "--uid")]
GroupNameShort: TypeAlias = Annotated[str | None, _who("GROUP", _GROUP, "the user's", "-g", "--gid")]

Permitted: TypeAlias = Annotated[
    tuple[str, ...],
    Setting(
        Several(ADDRESS),
        "With --user: an address that the program may listen on, in --bind's forms; may be repeated.",
        ADDRESSES,
        default="with --user none, else all",
        is_fixed=True,
    ),
]
SocketMode: TypeAlias = Annotated[
    int | None,
    Setting(
        Mode(),
        "The permissions of unix sockets.",
        ADDRESSES,
        also=("--uds-permissions",),
        default="0o777 minus the umask",
        is_fixed=True,
    ),
]
SocketOwner: TypeAlias = Annotated[
    str | None,
    Setting(
        Text("USER[:GROUP]"),
        "The owner of unix sockets.",
        ADDRESSES,
        default="--user, else the primary's user",
        is_fixed=True,
    ),
]
