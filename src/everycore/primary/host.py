"""A listener in the primary and the workers that hold it: what all policies have in common.

Job: hear the belts, and listen, refuse or hold connections as ready workers come and go. How connections
reach the workers is a subclass's affair: `Acceptor` accepts and hands over, `Sharer` lets the workers
accept. (Node has the same split, and the same two verbs, `add` and `remove`: `RoundRobinHandle` and
`SharedHandle`.)
Invariant: a holder has a belt, and a reader on it, exactly while it is in `_holders`. It is known as a
`Client`, and told what concerns it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.core.listeners import Listing
from everycore.errors import ProtocolError
from everycore.system.belt import MOST_BATCH, Belt
from everycore.system.descriptors import close_all
from everycore.system.sockets import StreamListener

log = logging.getLogger("everycore")

#: Messages read from one worker before others get their turn.
UPSTREAM_BUDGET: Final = 64
#: Messages read from one that is gone: more than a belt holds, unless somebody who lives on goes on writing.
LAST_WORDS: Final = 4096
#: Seconds between two attempts to listen again after somebody took the port meanwhile.
RELISTEN_PAUSE: Final = 1.0

NoWorker = Literal["refuse", "hold"]


class Client(Protocol):
    """What a listener knows of a worker that holds it."""

    @property
    def id(self) -> int:
        """The worker's number."""

    def on_serving(self, host: ListenerHost) -> None:
        """The worker is served by `host`."""

    def on_finished(self) -> None:
        """A listener of the worker is not `finishing` it any more: see `ListenerHost.finish`."""

    def on_violation(self, error: ProtocolError) -> None:
        """The worker broke the protocol of its belt."""


@dataclass(slots=True)
class Holder:
    """A worker that holds this listener. `batch` is 0 until it asks to be served."""

    client: Client
    belt: Belt
    ready: bool
    batch: int = 0
    room: int | None = None
    #: It is being removed: its `Close` among its last words is no news, and would remove it a second time.
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Absence:
    """What to do with new connections while no worker is ready; `hold_timeout` in seconds."""

    when_no_worker: NoWorker = "refuse"
    hold_timeout: float = 30.0


class ListenerHost(ABC):
    """One listener and its holders. `on_closed` is told which worker says that it closed the listener."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: StreamListener,
        listing: Listing,
        absence: Absence,
        on_closed: Callable[[ListenerHost, int], None],
    ) -> None:
        self._loop = loop
        self.listener = listener
        self.listing = listing
        self._absence = absence
        self._on_closed = on_closed
        self._holders: dict[int, Holder] = {}
        self._wants = False  # to listen: False while the address is only bound
        self._hold: asyncio.TimerHandle | None = None
        #: Until it is tried again to listen, after somebody took the port.
        self._again: asyncio.TimerHandle | None = None
        self._is_closed = False

    def descriptors(self) -> Iterator[int]:
        """The numbers of the listener and the belts."""
        yield self.listener.sock.fileno()
        for holder in self._holders.values():
            yield holder.belt.ours.fileno()
            yield holder.belt.theirs.fileno()

    #: The name of the policy, as a snapshot shows it.
    policy: str

    # --- what the policies differ in ----------------------------------------------------------------------

    @abstractmethod
    def shared(self) -> tuple[int, ...]:
        """The descriptors that a worker gets beside its belt; still ours."""

    @abstractmethod
    def account(self, worker: int) -> tuple[int, int]:
        """Connections given to `worker` so far, and those it has not acknowledged."""

    @abstractmethod
    def _begin(self) -> None:
        """We listen, and somebody is ready: let connections flow."""

    @abstractmethod
    def _cease(self) -> None:
        """Nobody is ready: stop the flow."""

    @abstractmethod
    def _serve(self, worker: int, holder: Holder) -> None:
        """`worker` is ready and asks to be served, or has room again."""

    @abstractmethod
    def _abandon(self, worker: int, holder: Holder) -> None:
        """`worker` is to get no more: take back what it has not picked up."""

    def _finish(self, worker: int, holder: Holder, *, at_once: bool) -> bool:
        """Give `worker`, the last one, those who have come so far; `at_once`, as many as its belt takes.

        False: it has no room for all yet, and is `finishing`; `_on_finished` is called at the end.
        """
        self._abandon(worker, holder)
        return True

    @property
    def finishing(self) -> int | None:
        """The last ready worker, while it is given those who had come before it was asked to leave."""
        return None

    @abstractmethod
    def _take_note(self, worker: int, holder: Holder, word: Any, fds: list[int]) -> None:
        """What `worker` says about connections. Raises ProtocolError; owns the descriptors."""

    def _heard(self) -> None:  # noqa: B027 - not every policy has something to do then
        """Everything that a worker said was taken note of."""

    @property
    def accepted(self) -> int:
        """Connections accepted here."""
        return 0

    @property
    def queued(self) -> int:
        """Connections accepted and waiting here for a worker."""
        return 0

    # --- holders ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Raises OSError, complete with the address."""
        self.listener.listen()
        self._wants = True
        if self._holders:
            self._see_who_is_there()

    def holds(self, worker: int) -> bool:
        """Whether `worker` holds this listener, and is not being removed."""
        holder = self._holders.get(worker)
        return holder is not None and not holder.is_leaving

    @property
    def holders(self) -> list[int]:
        """The workers that hold this listener, and are not being removed."""
        return [worker for worker, holder in self._holders.items() if not holder.is_leaving]

    def add(self, client: Client, belt: Belt, *, ready: bool) -> None:
        """The worker holds this listener from now on; it says on the belt when it wants to be served."""
        self._holders[client.id] = Holder(client, belt, ready)
        self._loop.add_reader(belt.ours, self._on_upstream, client.id)
        self._see_who_is_there()

    def set_ready(self, worker: int) -> None:
        """`worker` may be given connections."""
        holder = self._holders.get(worker)
        if holder is None or holder.ready:
            return
        holder.ready = True
        self._see_who_is_there()
        if holder.batch:
            self._let_serve(worker, holder)

    def _let_serve(self, worker: int, holder: Holder) -> None:
        if worker != self.finishing:
            self._relieve_finishing()
        self._serve(worker, holder)

    def rest(self, worker: int, *, finishes: bool) -> None:
        """`worker` gets no more; what it has not picked up is taken back. It still holds the listener.

        Unless it finishes its work and nobody else is ready: then it is to serve those who have come so far,
        as many as its belt takes at once.
        """
        holder = self._holders.get(worker)
        if holder is None or not holder.ready:
            return
        holder.ready = False
        if finishes and not self._somebody_is_ready():
            self._finish(worker, holder, at_once=True)
        else:
            self._abandon(worker, holder)
        self._see_who_is_there()

    def finish(self, worker: int) -> None:
        """`worker` is to be asked to leave: as `rest`, but it is given all who have come, in portions.

        Until then it is `finishing`; `Client.on_finished` is told of the end. It is not to leave before.
        """
        holder = self._holders.get(worker)
        if holder is None or not holder.ready or self.finishing == worker:
            return
        if any(other.ready for other in self._holders.values() if other is not holder):
            self.rest(worker, finishes=False)
        elif self._finish(worker, holder, at_once=False):
            holder.ready = False
            self._see_who_is_there()

    def _on_finished(self, worker: int) -> None:
        """It has all who had come, or can take no more."""
        holder = self._holders[worker]
        holder.ready = False
        self._see_who_is_there()
        holder.client.on_finished()

    def _relieve_finishing(self) -> None:
        """Another one serves those who have come."""
        worker = self.finishing
        if worker is not None:
            client = self._holders[worker].client
            self.rest(worker, finishes=False)
            client.on_finished()

    def _somebody_is_ready(self) -> bool:
        return any(holder.ready for holder in self._holders.values())

    def remove(self, worker: int) -> None:
        """`worker` is gone, or has closed: first hear what it still said, then take back what it left."""
        holder = self._holders.get(worker)
        if holder is None or holder.is_leaving:
            return
        holder.is_leaving = True
        self._loop.remove_reader(holder.belt.ours)
        was_finishing = self.finishing == worker
        steps: list[Callable[[], object]] = [
            partial(self._read_upstream, worker, holder, last_words=True),
            partial(self._holders.pop, worker, None),
            partial(self._abandon, worker, holder),
            holder.belt.close,
            self._see_who_is_there,
        ]
        if was_finishing:
            steps.append(holder.client.on_finished)
        take_all(steps, f"worker {worker} on {self.listener.what}")

    def close(self) -> None:
        """Give everything up."""
        self._is_closed = True
        self._cease()
        self._cancel_hold()
        self._cancel_again()
        steps: list[Callable[[], object]] = [partial(self.remove, worker) for worker in self._holders]
        take_all([*steps, self.listener.close], f"the end of {self.listener.what}")

    def abandon(self) -> None:
        """In a forked child: close our copies, and say nothing. The loop is the parent's, and not touched."""
        self._is_closed = True
        steps: list[Callable[[], object]] = [holder.belt.abandon for holder in self._holders.values()]
        take_all([*steps, self.listener.abandon], f"a fork, {self.listener.what}")

    # --- with nobody there --------------------------------------------------------------------------------

    def _see_who_is_there(self) -> None:
        """Refuse, hold or listen again, as the last or the first ready worker goes or comes."""
        self._cancel_again()
        if self._is_closed or not self._wants:
            return
        if self._somebody_is_ready():
            self._cancel_hold()
            self._listen_again()
        elif self._absence.when_no_worker == "refuse":
            self._refuse()
        elif self._hold is None and self.listener.is_listening:
            self._cease()
            self._hold = self._loop.call_later(self._absence.hold_timeout, self._refuse)

    def _cancel_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _refuse(self) -> None:
        self._hold = None
        self._cease()
        self.listener.suspend()

    def _listen_again(self) -> None:
        try:
            self.listener.listen()
        except OSError as exc:
            log.error("%s; trying again in %g s", exc, RELISTEN_PAUSE)  # noqa: TRY400 - the sentence says it
            self._again = self._loop.call_later(RELISTEN_PAUSE, self._see_who_is_there)
        else:
            self._begin()

    # --- what workers say ---------------------------------------------------------------------------------

    def _accuse(self, holder: Holder, error: ProtocolError) -> None:
        """Report that `holder` broke the protocol, once what is under way is finished."""
        self._loop.call_soon(holder.client.on_violation, error)

    def hear(self, worker: int) -> None:
        """Take note of what `worker` said on its belt up to now, before something it says elsewhere."""
        self._on_upstream(worker)

    def _on_upstream(self, worker: int) -> None:
        holder = self._holders.get(worker)
        if holder is None:
            return
        try:
            self._read_upstream(worker, holder)
        except ProtocolError as exc:
            holder.client.on_violation(exc)
        else:
            self._heard()

    def _read_upstream(self, worker: int, holder: Holder, *, last_words: bool = False) -> None:
        for _ in range(LAST_WORDS if last_words else UPSTREAM_BUDGET):
            try:
                message = holder.belt.receive()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if last_words:
                    return
                raise ProtocolError(f"its belt is broken: {exc}") from exc
            if message is None:
                if last_words:
                    return
                # We hold a duplicate of its end, so only a shutdown(2) by the worker ends it.
                raise ProtocolError("it has shut down its belt")
            try:
                self._read_word(worker, holder, *message)
            except ProtocolError:
                if last_words:
                    return
                raise
            if worker not in self._holders:  # it closed
                return

    def _read_word(
        self, worker: int, holder: Holder, data: bytes, fds: list[int], is_truncated: bool
    ) -> None:
        try:
            word = wire.decode_upstream(data)
        except ProtocolError as exc:
            close_all(fds)
            raise ProtocolError(f"on a belt: {exc}") from exc
        expected = 1 if type(word) is wire.GiveBack else 0
        if len(fds) != expected and not (is_truncated and expected and not fds):
            close_all(fds)
            raise ProtocolError(f"{type(word).__name__} came with {len(fds)} descriptors")
        if type(word) is wire.Serve:
            self._asked(worker, holder, word)
        elif type(word) is wire.Close:
            if not holder.is_leaving:
                self._on_closed(self, worker)
        else:
            self._take_note(worker, holder, word, fds)

    def _asked(self, worker: int, holder: Holder, word: wire.Serve) -> None:
        if not 1 <= word.batch <= MOST_BATCH:
            raise ProtocolError(f"asked for {word.batch} connections a message")
        if word.room is not None and word.room < 1:
            raise ProtocolError(f"asked to be served, with room for {word.room} connections")
        is_first, holder.batch, holder.room = not holder.batch, word.batch, word.room
        if is_first:
            holder.client.on_serving(self)  # which may make it ready, and so serve it
        if holder.ready:
            self._let_serve(worker, holder)
