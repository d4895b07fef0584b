"""The setting of the control socket."""

from typing import Annotated, Final, TypeAlias

from everycore.config.kinds import Path
from everycore.config.sections import CONTROL
from everycore.config.setting import Setting

#: The word in place of a path: make no control socket.
OFF: Final = "off"

ControlPath: TypeAlias = Annotated[
    str | None,
    Setting(
        Path("PATH|off", 'a path, or "off" for none'),
        "The control socket, which everycore status and its like use; off: make none.",
        CONTROL,
        also=("--control-socket",),
        default="a file in $XDG_RUNTIME_DIR/everycore; for root in /run/everycore",
        is_fixed=True,
    ),
]
