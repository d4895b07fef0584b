"""The setting of the control socket."""

from typing import Annotated, Final, TypeAlias

from everycore.config.kinds import Path
from everycore.config.sections import CONTROL
from everycore.config.setting import Setting

#: Written for a path: there is no control socket.
OFF: Final = "off"

ControlPath: TypeAlias = Annotated[
    str | None,
    Setting(
        Path("PATH|off", 'a path, or "off" for none'),
        "The control socket, for everycore status and the like; off: there is none.",
        CONTROL,
        also=("--control-socket",),
        default="a file in $XDG_RUNTIME_DIR/everycore; for root in /run/everycore",
        is_fixed=True,
    ),
]
