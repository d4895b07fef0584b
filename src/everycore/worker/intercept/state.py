"""What the methods that stand in `socket.socket` share: the way to the primary, and their sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from everycore.worker.intercept.intercepted import Registry

if TYPE_CHECKING:
    from everycore.worker.session import Session

registry: Final = Registry()
#: By which new sockets of this process go through the primary; None: they do not, as in a forked child.
session: Session | None = None
#: Whose port 0 is: "shared" by all workers, each worker's "own", or "auto": shared where the program serves.
port_zero: str = "auto"
#: Ports and paths of the listeners that the program has closed last.
left: Final[dict[Any, None]] = {}
_MOST_LEFT: Final = 4096


def leave(place: Any) -> None:
    """The program has closed its listener on that port or path."""
    left[place] = None
    if len(left) > _MOST_LEFT:
        del left[next(iter(left))]


def go_through(way: Session | None) -> None:
    """New sockets of this process go through the primary by `way` from now on; None: not any more."""
    global session
    session = way


def is_installed() -> bool:
    """Whether new sockets of this process go through the primary."""
    return session is not None
