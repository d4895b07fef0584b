"""A listener in the primary and the workers that hold it.

It reads the belts, and lets ready workers come and go. The `Distribution` decides how connections reach the
workers; `Attendance` and `Doors` decide whether the listener listens. Invariant: a subscriber has a belt,
with a reader, exactly while it is in `_subscribers`. The listener knows the worker as a `Client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.core.listeners import Listing
from everycore.errors import ProtocolError
from everycore.primary.listeners.attendance import Attendance, NoWorkerBehaviour
from everycore.primary.listeners.distribution import LAST_WORDS, Distribution
from everycore.primary.listeners.doors import Doors
from everycore.primary.listeners.subscriber import Client, Subscriber
from everycore.system.belt import MOST_BATCH, Belt
from everycore.system.listeners import BoundSocket

_EVERY_HOST: Final = ("0.0.0.0", "::")
#: Messages read from one worker before others get their turn.
UPSTREAM_BUDGET: Final = 64


class Listener:
    """One listener and its subscribers. `on_closed` is told which worker has closed the listener."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: BoundSocket,
        listing: Listing,
        no_worker: NoWorkerBehaviour,
        on_closed: Callable[[Listener, int], None],
        distribution: Distribution,
    ) -> None:
        self._loop = loop
        self.socket = socket
        self.listing = listing
        self.distribution = distribution
        self._on_closed = on_closed
        self._subscribers: dict[int, Subscriber] = {}
        self._doors = Doors(loop, socket, distribution, self._on_doors_closed)
        self._attendance = Attendance(loop, socket, distribution, self._doors, self._subscribers, no_worker)

    def descriptors(self) -> Iterator[int]:
        """The descriptors of the listener and the belts."""
        yield self.socket.sock.fileno()
        for subscriber in self._subscribers.values():
            yield subscriber.belt.ours.fileno()
            yield subscriber.belt.theirs.fileno()

    # --- subscribers ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Raises OSError; its text names the address."""
        self.socket.listen()
        self._attendance.begin()

    @property
    def has_listened(self) -> bool:
        """Whether it listens, or is kept for a worker that will: it is more than bound."""
        return self._attendance.counts

    def is_at(self, address: Any) -> bool:
        """Whether a connection to `address`, in the form of the wire, may come to this listener."""
        real = self.socket.real
        if not isinstance(address, (list, tuple)) or not isinstance(real, tuple):
            return self.socket.kind == socket.SOCK_STREAM and bool(real == address)
        is_host = real[0] in _EVERY_HOST or real[0] == address[0]
        return self.socket.kind == socket.SOCK_STREAM and is_host and bool(real[1] == address[1])

    def holds(self, worker: int) -> bool:
        """Whether `worker` holds this listener, and is not being removed."""
        subscriber = self._subscribers.get(worker)
        return subscriber is not None and not subscriber.is_leaving

    @property
    def subscribers(self) -> list[int]:
        """The workers that hold this listener, and are not being removed."""
        return [worker for worker, subscriber in self._subscribers.items() if not subscriber.is_leaving]

    @property
    def finishing(self) -> int | None:
        """The last ready worker, while it gets the connections that came before it was asked to leave."""
        return self.distribution.finishing

    def is_finishing(self, worker: int) -> bool:
        """Whether `worker`, which is to leave, may still get connections that came before it was asked."""
        return worker in self._doors.leavers or self.finishing == worker

    def add(self, client: Client, belt: Belt, *, ready: bool) -> None:
        """Let a worker hold this listener. It says on the belt when it wants to be served."""
        self._doors.open()
        subscriber = self._subscribers[client.id] = Subscriber(client, belt, ready)
        if not ready:
            self.distribution.withdraw(subscriber)
        self._loop.add_reader(belt.ours, self._on_upstream, client.id)
        self._attendance.look()

    def set_ready(self, worker: int) -> None:
        """Note that `worker` may be given connections."""
        subscriber = self._subscribers.get(worker)
        if subscriber is None or subscriber.ready:
            return
        subscriber.ready = True
        self._attendance.look()
        self._serve(subscriber)

    def _serve(self, subscriber: Subscriber) -> None:
        if subscriber.batch and self.finishing not in (None, subscriber.client.id):
            self._relieve_finishing()
        self.distribution.serve(subscriber)

    def rest(self, worker: int, *, finishes: bool) -> None:
        """Give `worker` no more, and take back what it has not picked up. It still holds the listener.

        If it `finishes` its work and no other worker is ready, it instead gets the connections that have
        come, as many as its belt takes at once.
        """
        self._doors.leavers.discard(worker)
        subscriber = self._subscribers.get(worker)
        if subscriber is None or not subscriber.ready:
            return
        subscriber.ready = False
        if finishes and not self._attendance.somebody_is_ready:
            self.distribution.finish(subscriber)
        else:
            self.distribution.withdraw(subscriber)
        self._attendance.look()

    def finish(self, worker: int) -> None:
        """Prepare to ask `worker` to leave: as `rest`, but it gets all connections that have come.

        It gets them in portions. Meanwhile it `is_finishing` and must not be asked yet. `Client.on_finished`
        tells when that ends.
        """
        subscriber = self._subscribers.get(worker)
        if subscriber is None or not subscriber.ready or self.is_finishing(worker):
            return
        if self._doors.are_closing:
            self._doors.leavers.add(worker)
        elif any(other.ready for other in self._subscribers.values() if other is not subscriber):
            self.rest(worker, finishes=False)
        elif self.distribution.finish(subscriber, partial(self._on_finished, subscriber)):
            subscriber.ready = False
            self._attendance.look()

    def _on_finished(self, subscriber: Subscriber) -> None:
        """Note that it has every connection that had come, or can take no more."""
        subscriber.ready = False
        self._attendance.look()
        subscriber.client.on_finished()

    def _relieve_finishing(self) -> None:
        """Let another worker serve the connections that have come."""
        if (worker := self.finishing) is not None:
            self.rest(worker, finishes=False)
            self._subscribers[worker].client.on_finished()

    def remove(self, worker: int) -> None:
        """Remove `worker`, which is gone or has closed: read its last messages, then take back the rest."""
        subscriber = self._subscribers.get(worker)
        if subscriber is None or subscriber.is_leaving:
            return
        subscriber.is_leaving = True
        self._loop.remove_reader(subscriber.belt.ours)
        was_finishing = self.is_finishing(worker)
        self._doors.leavers.discard(worker)
        steps: list[Callable[[], object]] = [
            partial(self._read_last_words, subscriber),
            partial(self.distribution.withdraw, subscriber),
            partial(self._subscribers.pop, worker, None),
            subscriber.belt.close,
            self._attendance.look,
        ]
        if was_finishing:
            steps.append(subscriber.client.on_finished)
        take_all(steps, f"worker {worker} on {self.socket.what}")

    def close(self) -> None:
        """Close the listener and its belts."""
        self._doors.cancel()
        self._attendance.end()
        steps: list[Callable[[], object]] = [self.distribution.close]
        steps += [partial(self.remove, worker) for worker in self._subscribers]
        take_all([*steps, self.socket.close], f"the end of {self.socket.what}")

    def abandon(self) -> None:
        """In a forked child: close the child's copies, send nothing, and leave the parent's loop alone."""
        self._attendance.counts = False
        steps: list[Callable[[], object]] = [
            subscriber.belt.abandon for subscriber in self._subscribers.values()
        ]
        steps += [self.socket.abandon, self.distribution.abandon]
        take_all(steps, f"a fork, {self.socket.what}")

    def shut(self) -> None:
        """Serve the connections that have come, and refuse later ones: all workers are to leave.

        Workers that are to be asked to leave `finish` until every connection was picked up. This ends when
        another worker comes to hold the listener.
        """
        if self._attendance.counts:
            self._doors.close(is_somebody_ready=self._attendance.somebody_is_ready)

    def _on_doors_closed(self, leavers: set[int]) -> None:
        """Let the workers leave: every connection that had come was picked up."""
        for worker in leavers:
            self.rest(worker, finishes=True)
            self._subscribers[worker].client.on_finished()
        self._attendance.look()

    # --- what workers say ---------------------------------------------------------------------------------

    def belt_of(self, worker: int) -> int:
        """The descriptor on which `worker`, which holds this listener, is heard."""
        return self._subscribers[worker].belt.ours.fileno()

    def read_belt(self, worker: int) -> None:
        """Handle the messages of `worker` on its belt, before what it says elsewhere."""
        self._on_upstream(worker)

    def _on_upstream(self, worker: int) -> None:
        if (subscriber := self._subscribers.get(worker)) is None:
            return
        try:
            self._read_upstream(worker, subscriber, UPSTREAM_BUDGET)
        except ProtocolError as exc:
            subscriber.client.on_violation(exc)
        else:
            self.distribution.on_belt_read()

    def _read_last_words(self, subscriber: Subscriber) -> None:
        with contextlib.suppress(ProtocolError):
            self._read_upstream(subscriber.client.id, subscriber, LAST_WORDS)

    def _read_upstream(self, worker: int, subscriber: Subscriber, most: int) -> None:
        """HOT: runs once for each acknowledgement."""
        for _ in range(most):
            said = subscriber.next_message()
            if said is None:
                return
            self._take(worker, subscriber, *said)
            if worker not in self._subscribers:  # it has closed
                return

    def _take(self, worker: int, subscriber: Subscriber, message: Any, fds: list[int]) -> None:
        if type(message) is wire.Serve:
            self._asked(subscriber, message)
        elif type(message) is wire.Close:
            if not subscriber.is_leaving:
                self._on_closed(self, worker)
        else:
            self.distribution.take(subscriber, message, fds)

    def _asked(self, subscriber: Subscriber, message: wire.Serve) -> None:
        if not 1 <= message.batch <= MOST_BATCH:
            raise ProtocolError(f"it asked for {message.batch} connections in each message")
        if message.room is not None and message.room < 1:
            raise ProtocolError(f"it asked to be served, with room for {message.room} connections")
        is_first, subscriber.batch, subscriber.room = not subscriber.batch, message.batch, message.room
        if is_first:
            subscriber.shares = message.shares
            subscriber.client.on_serving(self)  # this may make it ready, and so serve it
        if subscriber.ready:
            self._serve(subscriber)
