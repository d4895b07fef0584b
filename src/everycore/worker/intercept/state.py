"""What the replaced methods of `socket.socket` share: the session, and the intercepted sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from everycore.worker.intercept.intercepted import Registry

if TYPE_CHECKING:
    from everycore.worker.session import Session

registry: Final = Registry()
#: The session by which new sockets go through the primary; None if they do not, as in a forked child.
session: Session | None = None
#: Port 0: "shared" by all workers, each worker's "own", or "auto": shared until the program serves.
port_zero: str = "auto"
#: The ports and paths of the listeners that the program has closed, the latest last.
left: Final[dict[Any, None]] = {}
_MOST_LEFT: Final = 4096


def leave(place: Any) -> None:
    """Record that the program has closed its listener on that port or path."""
    left[place] = None
    if len(left) > _MOST_LEFT:
        del left[next(iter(left))]


def go_through(way: Session | None) -> None:
    """Make new sockets of this process go through the primary by `way`, or, if that is None, not any more."""
    global session
    session = way


def is_installed() -> bool:
    """Whether new sockets of this process go through the primary."""
    return session is not None
