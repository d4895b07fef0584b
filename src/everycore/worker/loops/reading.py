"""Where the connections of a listener come from: its belt, or the listener itself if workers share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everycore.worker.connections.reception import BeltReader, descriptor_limit
from everycore.worker.connections.shared_reader import SharedReader
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket

if TYPE_CHECKING:
    from everycore.worker.connections.limits import ConnectionLimit
    from everycore.worker.connections.reception import Giver
    from everycore.worker.session import Session


def begin_reading(
    loop: Any,
    sock: ClusterSocket,
    giver: Giver,
    limit: ConnectionLimit,
    session: Session,
    *,
    factory: Callable[[], Any] | None = None,
) -> None:
    """Give the connections of `sock` to `giver`, on `loop`, as far as `limit` allows.

    factory: the factory of protocols, if the loop is a uvloop and each connection is to be a plain transport.
    """
    if isinstance(sock, SharedSocket):
        _share(loop, sock, giver, limit, session, factory).begin()
        return
    reader = BeltReader(
        loop, sock, giver, limit, receptions=session.receptions, descriptor_limit=descriptor_limit()
    )
    loop.add_reader(sock.fileno(), reader.on_readable)
    reader.begin()


def _share(
    loop: Any,
    sock: SharedSocket,
    giver: Giver,
    limit: ConnectionLimit,
    session: Session,
    factory: Callable[[], Any] | None,
) -> SharedReader:
    """Return the reader of a shared listener. Only this function decides whether uvloop accepts by itself."""
    parts: Any = {
        "board": session.board, "connections": session.connections, "readiness": session.readiness
    }  # fmt: skip
    if factory is not None:
        from everycore.foreign import uvloop_internals

        if uvloop_internals.accepts_natively():
            from everycore.worker.connections.native_reader import NativeReader

            return NativeReader(loop, sock, giver, limit, factory=factory, turns=loop.stamp(), **parts)
    return SharedReader(loop, sock, giver, limit, **parts)
