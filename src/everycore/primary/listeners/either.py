"""Policy `shared` for unmodified programs: some workers accept by themselves, others are handed connections.

An event loop of everycore accepts one connection and goes to the end of the queue of waiting workers. A
program that waits in poll, select or accept has no such queue: the kernel wakes all of its kind, or always
the same one, and `accept` finds that another was faster, which the program would never see without a cluster.
So such a program has a belt under its socket, as under `round_robin`. A worker says with its first `Serve`
which kind it is. Invariant: from then on a subscriber belongs to one of the two distributions, for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everycore.core.dispatch import Dispatcher
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.shared import SharedDistribution
from everycore.primary.listeners.subscriber import Accepted, Subscriber


class EitherDistribution:
    """Two ways to the workers of one listener: a `Distribution`."""

    policy = "shared"

    def __init__(self, shared: SharedDistribution, distributor: Distributor) -> None:
        self._shared = shared
        self._distributor = distributor
        #: The ready workers to which the primary hands over.
        self._handed: set[int] = set()
        self._flows = False

    @property
    def dispatcher(self) -> Dispatcher[Accepted]:
        """As `Distribution.dispatcher`, for the workers that are handed connections."""
        return self._distributor.dispatcher

    @property
    def accepted(self) -> int:
        """As `Distribution.accepted`."""
        return self._distributor.accepted

    @property
    def queued(self) -> int:
        """As `Distribution.queued`."""
        return self._distributor.queued

    @property
    def finishing(self) -> int | None:
        """As `Distribution.finishing`."""
        return self._distributor.finishing

    def shared(self) -> tuple[int, ...]:
        """As `Distribution.shared`."""
        return self._shared.shared()

    def account(self, worker: int) -> tuple[int, int]:
        """As `Distribution.account`."""
        return self._distributor.account(worker)

    def oldest(self, worker: int) -> float | None:
        """As `Distribution.oldest`."""
        return self._distributor.oldest(worker)

    def close(self) -> None:
        """As `Distribution.close`."""
        self._shared.close()
        self._distributor.close()

    def abandon(self) -> None:
        """As `Distribution.abandon`."""
        self._shared.abandon()
        self._distributor.abandon()

    # --- subscribers ------------------------------------------------------------------------------------

    def serve(self, subscriber: Subscriber) -> None:
        """As `Distribution.serve`."""
        if subscriber.shares:
            self._shared.serve(subscriber)
        elif subscriber.batch:
            self._handed.add(subscriber.client.id)
            self._let_flow()
            self._distributor.serve(subscriber)

    def withdraw(self, subscriber: Subscriber) -> None:
        """As `Distribution.withdraw`."""
        if subscriber.shares:
            self._shared.withdraw(subscriber)
            return
        self._handed.discard(subscriber.client.id)
        self._let_flow()
        self._distributor.withdraw(subscriber)

    def finish(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> bool:
        """As `Distribution.finish`."""
        if subscriber.shares:
            return self._shared.finish(subscriber, then)
        return self._distributor.finish(subscriber, then)

    def take(self, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        """As `Distribution.take`."""
        (self._shared if subscriber.shares else self._distributor).take(subscriber, message, fds)

    def on_belt_read(self) -> None:
        """As `Distribution.on_belt_read`."""
        self._distributor.on_belt_read()

    # --- the flow ---------------------------------------------------------------------------------------

    def set_flowing(self, flows: bool) -> None:
        """As `Distribution.set_flowing`."""
        self._flows = flows
        self._shared.set_flowing(flows)
        self._let_flow()

    def _let_flow(self) -> None:
        """Let the primary accept only while a worker could get the connections from it."""
        flows = self._flows and bool(self._handed)
        if flows != self._distributor.dispatcher.arrivals.flows:
            self._distributor.set_flowing(flows)

    def refuse(self, *, is_held: bool) -> bool:
        """As `Distribution.refuse`."""
        self._distributor.refuse(is_held=is_held)
        return self._shared.refuse(is_held=is_held)

    def shut(self, then: Callable[[], None]) -> None:
        """As `Distribution.shut`."""
        self._flows = False  # a worker that leaves now starts nothing new: the socket may be closed already
        (self._distributor if self._handed else self._shared).shut(then)
