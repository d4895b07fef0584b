"""`EitherSocket`: the socket behind a program's listening socket under the policy `shared`.

The program has the worker's end of a belt, as under `round_robin`: it is readable exactly when a connection
is there for this worker, whichever call the program waits in. The object also holds the shared listener, for
an event loop of everycore, which takes turns there. Invariant: only one of the two takes connections
(`wire.Serve` says which).
"""

from __future__ import annotations

from everycore.system.descriptors import duplicate
from everycore.worker.listening.clustersocket import ClusterSocket, SharedSocket


class EitherSocket(ClusterSocket):
    """A belt and, as `sharing`, the listener that all workers share, for a loop that takes turns there."""

    __slots__ = ("sharing",)

    def __init__(self, sharing: SharedSocket) -> None:
        assert sharing.grant is not None
        belt, twin = sharing.ends()
        super().__init__(sharing.grant, duplicate(belt), duplicate(twin))
        self.sharing = sharing

    def abandon(self) -> None:
        """As `ClusterSocket.abandon`."""
        self.sharing.abandon()
        super().abandon()

    def _close_listener(self) -> None:
        self.sharing.close()  # first, because its reader uses the belt until then
        super()._close_listener()
