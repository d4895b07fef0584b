"""Makes listeners: binds or adopts their socket, and has the policy choose how they give connections out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import msgspec

from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.core.lanes import Lanes
from everycore.core.listeners import ListenKey, Listing
from everycore.primary.listeners.attendance import NoWorker, NoWorkerBehaviour
from everycore.primary.listeners.distribution import Distribution
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.shared import SharedDistribution
from everycore.primary.listeners.subscriber import Accepted
from everycore.settings import check_choice, check_seconds
from everycore.system.listeners import BoundSocket, DatagramSocket, StreamListener
from everycore.system.sockets import off_the_wire


class DistributionSettings(msgspec.Struct):
    """How connections are given out: the part of a cluster's settings that concerns listeners.

    `policy` may still change until the first fork. Raises ConfigurationError.
    """

    policy: str = "round_robin"
    when_no_worker: NoWorker = "refuse"
    hold_timeout: float = 30.0
    recall_after: float = 0.02

    def __post_init__(self) -> None:
        check_choice("when_no_worker", self.when_no_worker, ("refuse", "hold"))
        self.hold_timeout = check_seconds("hold_timeout", self.hold_timeout)
        self.recall_after = check_seconds("recall_after", self.recall_after)


class ListenerFactory:
    """Makes the listeners of one cluster.

    internal: the numbers of descriptors that are not to be listened on.
    on_closed: as `Listener` has it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: DistributionSettings,
        internal: Callable[[], Iterator[int]],
        on_closed: Callable[[Listener, int], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._internal = internal
        self._on_closed = on_closed

    def bound(self, key: ListenKey, request: wire.Listen) -> BoundSocket:
        """The socket for the address or the descriptor that was asked for. Raises OSError, complete."""
        made = StreamListener if key.kind == socket.SOCK_STREAM else DatagramSocket
        if key.fd is not None:
            return made.adopted(key.fd, backlog=request.backlog, internal=set(self._internal()))
        return made.bound(
            off_the_wire(request.address),
            family=key.family,
            v6only=request.v6only,
            backlog=request.backlog,
            mode=request.mode,
        )

    def make(self, listing: Listing, sock: BoundSocket) -> Listener:
        """The listener `listing`, on `sock`."""
        no_worker = NoWorkerBehaviour(self._settings.when_no_worker, self._settings.hold_timeout)
        distribution = self._distribution(listing.key, sock)
        return Listener(self._loop, sock, listing, no_worker, self._on_closed, distribution)

    def _distribution(self, key: ListenKey, sock: BoundSocket) -> Distribution:
        """Datagrams are always shared, as in Node: there is no connection to hand over."""
        if self._settings.policy == "shared" or key.kind != socket.SOCK_STREAM:
            return SharedDistribution(self._loop, sock)
        dispatcher = Dispatcher[Accepted](Lanes(recall_after=self._settings.recall_after))
        return Distributor(self._loop, sock, dispatcher)
