"""How the connections of a listener reach the workers that hold it: what a listener asks of a policy.

`Distributor` accepts and hands over, `SharedDistribution` lets the workers accept. (Node has the same split:
`RoundRobinHandle` and `SharedHandle`, each with `add` and `remove`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from everycore.core.dispatch import Dispatcher
from everycore.primary.listeners.subscriber import Accepted, Subscriber

#: Messages read from a belt that nobody reads any more: more than it holds, unless somebody goes on writing.
LAST_WORDS: Final = 4096


class Distribution(Protocol):
    """The connections of one listener."""

    @property
    def policy(self) -> str:
        """The name of the policy, as a snapshot shows it."""

    @property
    def dispatcher(self) -> Dispatcher[Accepted] | None:
        """Who decides what the primary hands over; None: the workers accept by themselves."""

    @property
    def accepted(self) -> int:
        """Connections accepted here."""

    @property
    def queued(self) -> int:
        """Connections accepted and waiting here for a worker."""

    @property
    def finishing(self) -> int | None:
        """The last ready worker, while it is given those who had come before it was asked to leave."""

    def shared(self) -> tuple[int, ...]:
        """Descriptors that a worker gets beside its belt; they are the caller's. Raises OSError."""

    def account(self, worker: int) -> tuple[int, int]:
        """Connections given to `worker` so far, and those it has not acknowledged."""

    def oldest(self, worker: int) -> float | None:
        """When the oldest that `worker` has not acknowledged was given to it; None: there is none."""

    def set_flowing(self, flows: bool) -> None:
        """Whether the listener listens and a worker is ready."""

    def refuse(self, *, is_held: bool) -> bool:
        """No worker is ready, and nobody is to wait. `is_held`: workers that are not ready hold the listener.

        Returns whether the listener may stop listening.
        """

    def shut(self, then: Callable[[], None]) -> None:
        """Nobody who comes from now on is served, and all who have come are: the listener stops listening.

        `then` is called when all of those have been picked up, maybe at once. A listener that others have too
        is left alone: those who have come wait there for whoever serves it next. Ends by `set_flowing`.
        """

    def serve(self, subscriber: Subscriber) -> None:
        """`subscriber` is ready. Once it has asked to be served (`batch`), it may be given connections."""

    def withdraw(self, subscriber: Subscriber) -> None:
        """`subscriber` is to get no more, or `is_leaving`: take back what it has not picked up."""

    def finish(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> bool:
        """Give `subscriber`, the last ready one, all who have come; without `then`, as many as it takes now.

        Returns False if it could not take all yet: it is `finishing`, and `then` is called at the end, unless
        it is withdrawn before.
        """

    def take(self, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        """What `subscriber` says about connections. Raises ProtocolError; owns the descriptors. HOT."""

    def on_belt_read(self) -> None:
        """All that a worker said was taken."""

    def close(self) -> None:
        """Stop the flow. Connections that wait here are closed, and so are those that come back later."""

    def abandon(self) -> None:
        """In a forked child: close our copies. The loop is the parent's, and not touched."""
