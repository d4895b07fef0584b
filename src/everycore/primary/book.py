"""The workers of one cluster by id and slot, and the subscriptions at each of them.

Invariant: a worker is in the book from its fork until just before its `Exited` is delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Protocol

from everycore.aio.mailbox import Mailbox
from everycore.aio.subscriptions import Subscription
from everycore.core import wire
from everycore.errors import ChannelClosed
from everycore.model import WorkerIdentity
from everycore.primary.process import WorkerProcess
from everycore.worker_face import Worker


class ClusterMember(Protocol):
    """What the book needs of a worker: its driver has it."""

    identity: WorkerIdentity
    face: Worker
    mailbox: Mailbox
    process: WorkerProcess

    @property
    def is_closed(self) -> bool:
        """Whether the streams of a dead worker are read to their end, or closed."""

    def tell(self, message: wire.ReopenLogs) -> None:
        """Send a message on the channel."""

    def close(self) -> None:
        """After the end: close the streams that were not read to their end."""

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and send nothing."""

    def descriptors(self) -> Iterable[int]:
        """The descriptors that belong to the worker."""


class Workers(Mapping[int, Worker]):
    """Maps ids to live workers. Iteration uses a copy, so that workers may come and go meanwhile."""

    def __init__(self, members: Mapping[int, ClusterMember]) -> None:
        self._members = members

    def __getitem__(self, key: int) -> Worker:
        return self._members[key].face

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def values(self) -> ValuesView[Worker]:
        """The workers that are alive now; a copy."""
        return self._copy().values()

    def items(self) -> ItemsView[int, Worker]:
        """The ids and workers that are alive now; a copy."""
        return self._copy().items()

    def _copy(self) -> dict[int, Worker]:
        return {number: member.face for number, member in self._members.items()}

    def __repr__(self) -> str:
        return f"<Workers {list(self.values())}>"


class Book:
    """The live workers of one cluster, and the dead ones whose streams are still read."""

    def __init__(self) -> None:
        self._members: dict[int, ClusterMember] = {}
        self._ended: list[ClusterMember] = []
        self._subscribers: list[_Subscriber] = []
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        #: The id of the latest worker; 0 before the first fork.
        self.last_id = 0
        self.workers = Workers(self._members)

    def __iter__(self) -> Iterator[ClusterMember]:
        return iter(tuple(self._members.values()))

    def free_slot(self) -> int:
        """The lowest slot without a worker."""
        taken = {member.identity.slot for member in self}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def add(self, member: ClusterMember) -> None:
        """Add a worker that was forked."""
        self.last_id = member.identity.id
        self._members[member.identity.id] = member
        self._is_empty.clear()
        for subscriber in self._subscribers:
            subscriber.add(member)

    def remove(self, member: ClusterMember) -> None:
        """Remove a dead worker. Its streams may still be read to their end."""
        del self._members[member.identity.id]
        for subscriber in self._subscribers:
            subscriber.forget(member)
        self._ended = [ended for ended in (*self._ended, member) if not ended.is_closed]
        if not self._members:
            # After `Exited`, which is emitted next: a waiting task then finds every event in its queue.
            asyncio.get_running_loop().call_soon(self._check_empty)

    def _check_empty(self) -> None:
        if not self._members:
            self._is_empty.set()

    async def broadcast(self, message: Any) -> int:
        """Send `message` to every connected worker. Returns how many it was sent to.

        Raises: TypeError, OverflowError, ValueError for a message that cannot be sent.
        """
        workers = [member.face for member in self if member.face.is_connected()]
        results = await asyncio.gather(*(worker.send(message) for worker in workers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ChannelClosed):
                raise result
        return sum(result is None for result in results)

    async def wait(self) -> None:
        """Wait until the cluster has no worker."""
        await self._is_empty.wait()

    def on_message(self, callback: Callable[[Any], object]) -> Subscription:
        """Call `callback` with every worker's messages, including workers forked later."""
        subscriber = _Subscriber(callback)
        for member in self:
            subscriber.add(member)
        self._subscribers.append(subscriber)
        return Subscription(lambda: self._forget(subscriber))

    def _forget(self, subscriber: _Subscriber) -> None:
        subscriber.cancel()
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def ended(self) -> list[ClusterMember]:
        """The dead workers whose streams are not yet read to their end."""
        return self._ended


class _Subscriber:
    """One call of `on_message`: it has a subscription at each worker."""

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self._callback = callback
        self._subscriptions: dict[int, Subscription] = {}

    def add(self, member: ClusterMember) -> None:
        self._subscriptions[member.identity.id] = member.mailbox.on_message(self._callback)

    def forget(self, member: ClusterMember) -> None:
        self._subscriptions.pop(member.identity.id, None)

    def cancel(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.cancel()
        self._subscriptions.clear()
