"""Where the connections of a listener come from: its belt, or the listener itself if workers share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everycore.worker.connections.reception import BeltReader, descriptor_limit
from everycore.worker.connections.shared_reader import SharedReader
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket

if TYPE_CHECKING:
    from everycore.worker.connections.limits import ConnectionLimit
    from everycore.worker.connections.reception import Giver
    from everycore.worker.session import Session


def begin_reading(
    loop: Any, sock: ClusterSocket, giver: Giver, limit: ConnectionLimit, session: Session
) -> None:
    """Give the connections of `sock` to `giver`, on `loop`, as far as `limit` allows."""
    if isinstance(sock, SharedSocket):
        SharedReader(
            loop,
            sock,
            giver,
            limit,
            board=session.board,
            connections=session.connections,
            readiness=session.readiness,
        ).begin()
        return
    reader = BeltReader(
        loop, sock, giver, limit, receptions=session.receptions, descriptor_limit=descriptor_limit()
    )
    loop.add_reader(sock.fileno(), reader.on_readable)
    reader.begin()
