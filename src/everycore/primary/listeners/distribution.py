"""How the connections of a listener reach its workers: the interface between a listener and a policy.

`Distributor` accepts and hands over, `SharedDistribution` lets the workers accept. (Node has the same split:
`RoundRobinHandle` and `SharedHandle`, each with `add` and `remove`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from everycore.core.dispatch import Dispatcher
from everycore.primary.listeners.subscriber import Accepted, Subscriber

#: The most messages that are read from an abandoned belt: more than it holds, unless a process goes on
#: writing.
LAST_WORDS: Final = 4096


class Distribution(Protocol):
    """Distributes the connections of one listener."""

    @property
    def policy(self) -> str:
        """The name of the policy, as a snapshot shows it."""

    @property
    def dispatcher(self) -> Dispatcher[Accepted] | None:
        """Decides what the primary hands over; None if the workers accept by themselves."""

    @property
    def accepted(self) -> int:
        """The number of connections accepted here."""

    @property
    def queued(self) -> int:
        """The number of connections accepted here that wait for a worker."""

    @property
    def finishing(self) -> int | None:
        """The last ready worker, while it gets the connections that came before it was asked to leave."""

    def shared(self) -> tuple[int, ...]:
        """The descriptors that a worker gets beside its belt. The caller owns them. Raises OSError."""

    def account(self, worker: int) -> tuple[int, int]:
        """The connections given to `worker` so far, and those that it has not acknowledged."""

    def oldest(self, worker: int) -> float | None:
        """When the oldest unacknowledged connection was given to `worker`; None without one."""

    def set_flowing(self, flows: bool) -> None:
        """Set whether the listener listens and a worker is ready."""

    def refuse(self, *, is_held: bool) -> bool:
        """Refuse waiting connections: no worker is ready. `is_held`: unready workers hold the listener.

        Returns whether the listener may stop listening.
        """

    def shut(self, then: Callable[[], None]) -> None:
        """Stop listening: serve the connections that have come, and no later ones.

        `then` is called when all of them have been picked up, perhaps at once. If other processes have the
        listener too, it is left alone, and connections wait there for its next server. `set_flowing` ends
        this.
        """

    def serve(self, subscriber: Subscriber) -> None:
        """Serve `subscriber`, which is ready. It gets connections once it has asked for them (`batch`)."""

    def withdraw(self, subscriber: Subscriber) -> None:
        """Give `subscriber` no more, or let it go if it `is_leaving`. Take back what it has not picked up."""

    def finish(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> bool:
        """Give `subscriber`, the last ready worker, every connection that has come.

        Without `then` it gets as many as it takes now. Returns False if it could not take all yet: it is then
        `finishing`, and `then` is called at the end, unless it is withdrawn before.
        """

    def take(self, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        """Handle a message of `subscriber` about connections; owns `fds`. Raises ProtocolError. HOT."""

    def on_belt_read(self) -> None:
        """Note that all messages of a worker were handled."""

    def close(self) -> None:
        """Stop the flow, and close the connections that wait here. Later returns are closed too."""

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and leave the parent's loop alone."""
