"""The primary accepts, and each client has its own worker.

`Distributor` does all the work, and `core.sticky` decides. Invariant: the dispatcher knows the seat of every
worker that may get a connection.
"""

from __future__ import annotations

import asyncio

from everycore.core.proxies import Proxies
from everycore.core.sticky import StickyDispatcher, StickyLanes
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.subscriber import Accepted, Subscriber
from everycore.system.clients import client_of
from everycore.system.listeners import BoundSocket


class StickyDistributor(Distributor):
    """Distributes the connections of one listener by their clients' addresses: a `Distribution`."""

    policy = "sticky"
    dispatcher: StickyDispatcher[Accepted]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: BoundSocket,
        recall_after: float | None,
        proxies: Proxies | None = None,
    ) -> None:
        lanes = StickyLanes() if recall_after is None else StickyLanes(recall_after=recall_after)
        super().__init__(loop, listener, StickyDispatcher(lanes, _client_of), proxies)

    def serve(self, subscriber: Subscriber) -> None:
        """As `Distribution.serve`."""
        self.dispatcher.seat(subscriber.client.id, subscriber.client.seat)
        super().serve(subscriber)


def _client_of(connection: Accepted) -> bytes | None:
    return client_of(connection[1])
