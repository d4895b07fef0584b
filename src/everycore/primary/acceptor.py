"""One stream listener in the primary: accepts, asks the dispatcher, puts connections on belts.

Job: act on what `core.dispatch` decides. HOT: `_pump` and `_read_upstream` run once or more a connection,
so they take the shortest road (`_accept` without a socket object, one `sendmsg` a worker and turn,
`os.close` of the copies) and touch no event, no log and no task.

Invariant: every descriptor accepted here is closed here or lies in `_queue`; a descriptor read from a belt
is on no belt any more. When no worker has credit the listener is not even polled. Must not import the
worker's side.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from everycore.core import wire
from everycore.core.dispatch import Dispatcher, Lane
from everycore.errors import ProtocolError
from everycore.system.belt import MOST_BATCH, Belt
from everycore.system.descriptors import close_all
from everycore.system.sockets import StreamListener

log = logging.getLogger("everycore")

#: Connections accepted before the loop turns again: acks and exits must get their turn in a flood.
BURST: Final = 64
#: Out of descriptors or memory: the kernel keeps the connections; look again after this many seconds.
EXHAUSTED_PAUSE: Final = 0.1
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
#: A belt took nothing (ETOOMANYREFS: too many descriptors in flight, unix(7)): try that worker again after.
BELT_PAUSE: Final = 0.01
#: Messages read from one worker before others get their turn.
UPSTREAM_BUDGET: Final = 64
#: Seconds between two attempts to listen again after somebody took the port meanwhile.
RELISTEN_PAUSE: Final = 1.0

NoWorker = Literal["refuse", "hold"]


@dataclass(slots=True)
class Holder:
    """A worker that holds this listener."""

    belt: Belt
    ready: bool
    batch: int = 0  # 0: it has not asked to be served yet


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom an acceptor tells what it learns: the first three get the worker's id."""

    serving: Callable[[int], None]
    closed: Callable[[int], None]
    violated: Callable[[int, ProtocolError], None]


class Acceptor:
    """One listener, its holders, and what was accepted and not yet handed over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: StreamListener,
        dispatcher: Dispatcher,
        owner: Owner,
        *,
        when_no_worker: NoWorker = "refuse",
        hold_timeout: float = 30.0,
    ) -> None:
        self._loop = loop
        self.listener = listener
        self.dispatcher = dispatcher
        self._owner = owner
        self._when_no_worker = when_no_worker
        self._hold_timeout = hold_timeout
        self._holders: dict[int, Holder] = {}
        self._queue: deque[tuple[int, Any]] = deque()
        self.accepted = 0
        self._polling = False
        self._wants = False  # started: False while the address is only bound
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._starving = False
        self._closed = False

    @property
    def queued(self) -> int:
        """Connections accepted and waiting here for a worker."""
        return len(self._queue)

    def descriptors(self) -> Iterator[int]:
        """The numbers of the listener and the belts."""
        yield self.listener.sock.fileno()
        for holder in self._holders.values():
            yield holder.belt.ours.fileno()
            yield holder.belt.theirs.fileno()

    # --- holders ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Raises OSError, complete with the address."""
        self.listener.listen()
        self._wants = True
        if self._holders:
            self._see_who_is_there()

    def add(self, worker: int, belt: Belt, *, ready: bool) -> None:
        """`worker` holds this listener from now on; it says on the belt when it wants to be served."""
        self._holders[worker] = Holder(belt, ready)
        self._loop.add_reader(belt.ours, self._on_upstream, worker)
        self._see_who_is_there()

    def set_ready(self, worker: int) -> None:
        """`worker` may be given connections."""
        holder = self._holders.get(worker)
        if holder is None or holder.ready:
            return
        holder.ready = True
        if holder.batch:
            self.dispatcher.join(worker, holder.batch)
        self._see_who_is_there()
        self._pump()

    def rest(self, worker: int) -> None:
        """`worker` gets no more; what it has not picked up is taken back. It still holds the listener."""
        holder = self._holders.get(worker)
        if holder is None or not holder.ready:
            return
        holder.ready = False
        self._take_back(worker, holder)
        self._see_who_is_there()
        self._pump()

    def remove(self, worker: int) -> None:
        """`worker` is gone, or has closed: first hear what it still said, then take back what it left."""
        holder = self._holders.get(worker)
        if holder is None:
            return
        self._loop.remove_reader(holder.belt.ours)
        self._read_upstream(worker, holder, last_words=True)
        self._holders.pop(worker, None)
        self._take_back(worker, holder)
        holder.belt.close()
        if not self._closed:
            self._see_who_is_there()
            self._pump()

    def close(self) -> None:
        """Give everything up: connections that wait here are closed."""
        self._closed = True
        self._stop_polling()
        for timer in (self._timer, self._pause, self._hold):
            if timer is not None:
                timer.cancel()
        self._timer = self._pause = self._hold = None
        for worker in tuple(self._holders):
            self.remove(worker)
        self._drop_queue()
        self.listener.close()

    # --- with nobody there --------------------------------------------------------------------------------

    def _see_who_is_there(self) -> None:
        """Refuse, hold or listen again, as the last or the first ready worker goes or comes."""
        if self._closed or not self._wants:
            return
        if any(holder.ready for holder in self._holders.values()):
            if self._hold is not None:
                self._hold.cancel()
                self._hold = None
            if not self.listener.is_listening:
                self._listen_again()
            elif not self._polling and not self._starving:
                self._start_polling()
        elif self._when_no_worker == "refuse":
            self._refuse()
        elif self._hold is None and self.listener.is_listening:
            self._stop_polling()
            self._hold = self._loop.call_later(self._hold_timeout, self._refuse)

    def _refuse(self) -> None:
        self._hold = None
        self._stop_polling()
        self._drop_queue()
        self.listener.suspend()

    def _listen_again(self) -> None:
        try:
            self.listener.listen()
        except OSError as exc:
            log.error("%s; trying again in %g s", exc, RELISTEN_PAUSE)  # noqa: TRY400 - the sentence says it all
            self._loop.call_later(RELISTEN_PAUSE, self._see_who_is_there)
            return
        self._start_polling()

    def _drop_queue(self) -> None:
        close_all(fd for fd, _ in self._queue)
        self._queue.clear()

    # --- connections go out -------------------------------------------------------------------------------

    def _start_polling(self) -> None:
        if not self._polling and self.listener.is_listening and self._pause is None:
            self._polling = True
            self._loop.add_reader(self.listener.sock, self._pump)

    def _stop_polling(self) -> None:
        if self._polling:
            self._polling = False
            self._loop.remove_reader(self.listener.sock)

    def _pump(self) -> None:
        """Hand over what waits, as long as somebody has credit."""
        if self._closed:
            return
        now = self._loop.time()
        choose, hand, queue = self.dispatcher.choose, self.dispatcher.hand, self._queue
        may_accept = self.listener.is_listening and self._pause is None
        shares: dict[Lane, list[tuple[int, int, Any]]] = {}
        was_starving, self._starving = self._starving, False
        for taken in range(BURST):
            lane = choose(now)
            if lane is None:
                # The backlog was not empty when credit ran out if the listener woke us and we could take
                # nothing, or if, starving, we found somebody there after all.
                self._starve(now, bool(queue) or (was_starving if taken else self._polling))
                break
            if queue:
                fd, peer = queue.popleft()
            elif may_accept:
                accepted = self._accept()
                if accepted is None:
                    break
                fd, peer = accepted
            else:
                break
            item = (hand(lane, now), fd, peer)
            if lane in shares:
                shares[lane].append(item)
            else:
                shares[lane] = [item]
        else:
            self._start_polling()
            if queue:  # its turn comes without any readiness of the listener
                self._loop.call_soon(self._pump)
        for lane, share in shares.items():
            self._send(lane, share)
        if shares or self._starving:
            self._arm(now)

    def _accept(self) -> tuple[int, Any] | None:
        """One connection; None: there is none now, and polling is as it should be."""
        while True:
            try:
                fd, peer = self.listener.sock._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, InterruptedError):
                self._start_polling()
                return None
            except OSError as exc:
                if exc.errno in EXHAUSTED:
                    self._pause_accepting(exc)
                    return None
                if exc.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    self._stop_polling()
                    return None
                continue  # accept(2): errors of the connection itself; the next one may be well
            self.accepted += 1
            return fd, peer

    def _pause_accepting(self, exc: OSError) -> None:
        log.warning("accept on %s: %s; the backlog keeps connections", self.listener.what, exc.strerror)
        self._stop_polling()
        self._pause = self._loop.call_later(EXHAUSTED_PAUSE, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._pause = None
        self._pump()

    def _starve(self, now: float, somebody_waited: bool) -> None:
        """Nobody has credit: poll no more until an ack.

        If somebody waited, let lanes take more the next time.
        """
        self._starving = True
        self._stop_polling()
        if somebody_waited:
            self.dispatcher.starved(now)

    def _send(self, lane: Lane, share: list[tuple[int, int, Any]]) -> None:
        holder = self._holders[lane.worker]
        size = MOST_BATCH if lane.batch >= MOST_BATCH else max(lane.batch, 1)
        for start in range(0, len(share), size):
            part = share[start : start + size]
            fds = [fd for _, fd, _ in part]
            message = wire.encode(wire.Handover(part[0][0], [peer for _, _, peer in part]))
            try:
                holder.belt.send(message, fds)
            except OSError:
                self._unsend(lane, share[start:])
                return
            for fd in fds:
                os.close(fd)

    def _unsend(self, lane: Lane, share: list[tuple[int, int, Any]]) -> None:
        """The belt took no more: back to the head of the queue, and that worker rests a moment."""
        worker = lane.worker
        for number, fd, peer in reversed(share):
            self.dispatcher.returned(worker, number)
            self._queue.appendleft((fd, peer))
        self.dispatcher.fill(worker)
        self._loop.call_later(BELT_PAUSE, self._try_belt_again, worker)

    def _try_belt_again(self, worker: int) -> None:
        holder = self._holders.get(worker)
        if holder is not None and holder.ready and holder.batch:
            self.dispatcher.join(worker, holder.batch)
            self._pump()

    # --- what workers say ---------------------------------------------------------------------------------

    def _on_upstream(self, worker: int) -> None:
        holder = self._holders.get(worker)
        if holder is None:
            return
        try:
            self._read_upstream(worker, holder)
        except ProtocolError as exc:
            self._owner.violated(worker, exc)
            return
        if self._starving or self._queue:
            self._pump()

    def hear(self, worker: int) -> None:
        """Take note of what `worker` said on its belt up to now, before something it says elsewhere."""
        self._on_upstream(worker)

    def _read_upstream(self, worker: int, holder: Holder, *, last_words: bool = False) -> None:
        for _ in range(UPSTREAM_BUDGET):
            try:
                message = holder.belt.receive()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if last_words:
                    return
                msg = f"its belt is broken: {exc}"
                raise ProtocolError(msg) from exc
            if message is None:
                return
            try:
                self._take_note(worker, holder, *message)
            except ProtocolError:
                if last_words:
                    return
                raise
            if worker not in self._holders:  # it closed
                return

    def _take_note(self, worker: int, holder: Holder, data: bytes, fds: list[int], truncated: bool) -> None:
        try:
            word = wire.decode_upstream(data)
        except msgspec.DecodeError as exc:
            close_all(fds)
            msg = f"unreadable message on a belt: {exc}"
            raise ProtocolError(msg) from exc
        if truncated or len(fds) != (1 if type(word) is wire.GiveBack else 0):
            close_all(fds)
            if truncated and type(word) is wire.GiveBack and not fds:
                self.dispatcher.returned(worker, word.number)  # we are out of descriptors: that one is lost
                return
            msg = f"{type(word).__name__} came with {len(fds)} descriptors"
            raise ProtocolError(msg)
        match word:
            case wire.Acked(last):
                self.dispatcher.acknowledged(worker, last, self._loop.time())
            case wire.Serve(batch):
                self._serve(worker, holder, batch)
            case wire.GiveBack(number, peer):
                self._queue.append((fds[0], peer))
                self.dispatcher.returned(worker, number)
            case wire.Full():
                self.dispatcher.fill(worker)
                self._read_back(worker, holder)
            case wire.Close():
                self._owner.closed(worker)

    def _serve(self, worker: int, holder: Holder, batch: int) -> None:
        if not 1 <= batch <= MOST_BATCH:
            msg = f"asked for {batch} connections a message"
            raise ProtocolError(msg)
        first = not holder.batch
        holder.batch = batch
        if first:
            self._owner.serving(worker)  # may make it ready
        if holder.ready:
            self.dispatcher.join(worker, batch)
            self._pump()

    # --- connections come back ----------------------------------------------------------------------------

    def _read_back(self, worker: int, holder: Holder) -> None:
        """Take from the belt what `worker` has not read. Each message goes to exactly one reader."""
        while True:
            try:
                message = holder.belt.read_back()
            except OSError:
                return
            if message is None:
                return
            data, fds, _ = message
            handover = wire.decode_handover(data)
            for at, peer in enumerate(handover.peers or [None]):
                self.dispatcher.returned(worker, handover.first + at)
                if at < len(fds):
                    self._queue.append((fds[at], peer))
            if len(fds) < len(handover.peers):
                log.error("out of descriptors: %d connections lost", len(handover.peers) - len(fds))

    def _take_back(self, worker: int, holder: Holder) -> None:
        self._read_back(worker, holder)
        lost = self.dispatcher.leave(worker)
        if lost and log.isEnabledFor(logging.DEBUG):
            log.debug("worker %d left with %d connections un-acknowledged", worker, lost)

    def _arm(self, now: float) -> None:
        """Look again when a lane may have become late, or its belt is to be read back."""
        at = self.dispatcher.next_look(now) if self._starving else now + self.dispatcher.recall_after
        if at is None or (self._timer is not None and self._timer.when() <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for lane in self.dispatcher.overdue(now):
            self._recall(lane, now)
        if self._starving or self._queue:
            self._pump()
        if any(lane.pending for lane in self.dispatcher.lanes.values()):
            self._arm(now)

    def _recall(self, lane: Lane, now: float) -> None:
        holder = self._holders[lane.worker]
        self._read_back(lane.worker, holder)
        if self.dispatcher.stall(lane):
            probe = wire.encode(wire.Handover(self.dispatcher.probe(lane, now), []))
            try:
                holder.belt.send(probe, ())
            except OSError:  # full of what is not there any more: it will be free the next time
                lane.pending.clear()
                lane.stalled = False
