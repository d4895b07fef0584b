"""The uvloop event loop whose servers listen through the primary. It is imported only if uvloop is wanted.

`create_server` and `create_unix_server` ask the primary and return a `BeltServer`; `create_datagram_endpoint`
shares its socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import uvloop

from everycore.foreign import uvloop_internals
from everycore.worker.connections.turns import Turns
from everycore.worker.loops.beltserver import BeltServer
from everycore.worker.loops.clustered import ClusteredLoop, Factory, FromPrimary, ServeTerms

if TYPE_CHECKING:
    from everycore.worker.session import Session


class Stamping:
    """A uvloop loop that can note on the board whether it waits for events."""

    _everycore: Session
    _turns: Turns | None = None

    def stamp(self) -> Turns:
        """Note it from now on. Does nothing if it does already."""
        if self._turns is None:
            loop: Any = self
            self._turns = Turns(loop, self._everycore.board)
        return self._turns

    def end_stamps(self) -> None:
        """Stop noting it. To be called before the loop is closed."""
        if self._turns is not None:
            self._turns.close()


class UvloopListeners(FromPrimary):
    """The primary's listeners, served by uvloop."""

    def serve(
        self, loop: ClusterUvloop, factory: Factory, opened: Sequence[Any], terms: ServeTerms
    ) -> asyncio.AbstractServer:
        """As `Listeners.serve`."""
        by_hand = uvloop_internals.capabilities().connect
        connect = self.connect(loop)
        return BeltServer.begin(loop, self._session, opened, factory, terms, connect, by_hand=by_hand)


class ClusterUvloop(Stamping, ClusteredLoop, uvloop.Loop):  # type: ignore[misc] # as uvloop types it
    """uvloop's loop, whose servers listen through the primary."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._everycore = session
        self._listeners = UvloopListeners(session)

    def close(self) -> None:
        """As `loop.close`."""
        if not self.is_running():
            self.end_stamps()
        super().close()


#: The probe runs now, without a loop: in one it would need a thread. A mold probes once for all workers.
uvloop_internals.capabilities()
