"""The primary accepts, asks the dispatcher, and puts connections on belts.

Job: act on what `core.dispatch` decides. HOT: `_pump` and `_take_note` run once or more a connection, so
they take the shortest road (no socket object, one `sendmsg` a worker and turn, `os.close` of
the copies) and touch no event, no log and no task.

Invariant: every descriptor accepted here is closed here or lies in `_queue`; a descriptor read from a belt is
on no belt any more. When no worker has credit the listener is not even polled. Must not import the worker's
side.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from everycore.core import wire
from everycore.core.dispatch import Dispatcher, Lane, Pause
from everycore.core.listeners import Listing
from everycore.errors import ProtocolError
from everycore.foreign.socket_internals import accept
from everycore.primary.host import LAST_WORDS, Absence, Holder, ListenerHost
from everycore.system.accepting import PAUSE, Trouble, trouble_of
from everycore.system.descriptors import close_all
from everycore.system.sockets import StreamListener, on_the_wire

log = logging.getLogger("everycore")

#: Connections accepted before the loop turns again: acks and exits must get their turn in a flood.
BURST: Final = 64
#: A belt took nothing (ETOOMANYREFS: too many descriptors in flight, unix(7)): try that worker again after.
BELT_PAUSE: Final = 0.01
#: A belt that never takes anything again: the worker, which has a duplicate of our end, has shut it down.
BROKEN: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
#: Connections that the last worker of a listener is given when it leaves: a backlog, and no flood.
MOST_AT_THE_END: Final = 4096
#: The shortest wait that an event loop can do, in seconds; asked for less, uvloop would spin.
FINEST: Final = 0.001


class Acceptor(ListenerHost):
    """A listener whose connections the primary hands over."""

    policy = "round_robin"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: StreamListener,
        listing: Listing,
        absence: Absence,
        on_closed: Callable[[ListenerHost, int], None],
        dispatcher: Dispatcher,
    ) -> None:
        super().__init__(loop, listener, listing, absence, on_closed)
        self.dispatcher = dispatcher
        self._queue: deque[tuple[int, Any]] = deque()
        self._accepted = 0
        self._polling = False
        self._starving = False
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        self._pause: asyncio.TimerHandle | None = None
        #: How many connections will have been accepted when the last worker has its share, at most.
        self._most = 0

    @property
    def accepted(self) -> int:
        """Connections accepted here."""
        return self._accepted

    @property
    def queued(self) -> int:
        """Connections accepted and waiting here for a worker."""
        return len(self._queue)

    def shared(self) -> tuple[int, ...]:
        """Nothing: a belt is all a worker needs."""
        return ()

    def account(self, worker: int) -> tuple[int, int]:
        """Connections handed to `worker` so far, and those it has not acknowledged."""
        lane = self.dispatcher.lane_of(worker)
        return (0, 0) if lane is None else (lane.total, lane.outstanding)

    def close(self) -> None:
        """Give everything up: connections that wait here are closed."""
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        self._timer = self._pause = None
        super().close()
        self._drop_queue()

    def abandon(self) -> None:
        """As `ListenerHost.abandon`; connections that wait here are the parent's as well."""
        super().abandon()
        self._drop_queue()

    # --- holders ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._starving:
            self._start_polling()

    def _cease(self) -> None:
        self._stop_polling()

    def _serve(self, worker: int, holder: Holder) -> None:
        self.dispatcher.join(worker, holder.batch, holder.room)
        if worker != self.finishing:
            self._relieve_finishing()
        self._pump()

    def finish(self, worker: int) -> None:
        """As `ListenerHost.finish`."""
        super().finish(worker)
        if self.finishing is not None:
            self._stop_polling()  # its acknowledgements say when there is room

    def _abandon(self, worker: int, holder: Holder) -> None:
        self._read_back(worker, holder)
        self.dispatcher.leave(worker)
        lost = 0 if worker in self._holders else self.dispatcher.forget(worker)
        if lost and log.isEnabledFor(logging.DEBUG):
            log.debug("worker %d left with %d connections un-acknowledged", worker, lost)
        self._pump()

    def _finish(self, worker: int, holder: Holder) -> bool:
        """Its belt stays as it is; who waits here and in the backlog is put on it, whatever its credit.

        A message at a time, so that little is accepted for which neither the belt nor a descriptor is left.
        """
        lane = self.dispatcher.lanes.get(worker)
        if lane is None or Pause.FULL in lane.pauses:
            self._abandon(worker, holder)
            return True
        now = self._loop.time()
        self.dispatcher.pause(worker, Pause.FINISHING)
        if self.finishing is None:
            self._most = self._accepted + MOST_AT_THE_END
        nobody_waits = False
        while not nobody_waits and Pause.BELT not in lane.pauses and self._pause is None:
            size = lane.batch if lane.room is None else min(lane.batch, lane.room - lane.outstanding)
            if size <= 0:
                break
            share: list[tuple[int, int, Any]] = []
            while len(share) < size and (waiting := self._next_waiting()) is not None:
                share.append((self.dispatcher.hand(lane, now), *waiting))
            self._send(lane, share)
            nobody_waits = len(share) < size or self._accepted >= self._most
        self._arm(now)  # should another one come meanwhile, it may have what this one is slow to take
        return nobody_waits and Pause.BELT not in lane.pauses and self._pause is None

    def _next_waiting(self) -> tuple[int, Any] | None:
        return self._queue.popleft() if self._queue else self._accept_now()

    def _accept_now(self) -> tuple[int, Any] | None:
        return self._accept() if self.listener.is_listening and self._pause is None else None

    def _refuse(self) -> None:
        super()._refuse()
        self._drop_queue()

    def _drop_queue(self) -> None:
        close_all(fd for fd, _ in self._queue)
        self._queue.clear()

    # --- connections go out -------------------------------------------------------------------------------

    def _start_polling(self) -> None:
        may_poll = self.listener.is_listening and self._pause is None and self.finishing is None
        if may_poll and not self._polling:
            self._polling = True
            self._loop.add_reader(self.listener.sock, self._pump)

    def _stop_polling(self) -> None:
        if self._polling:
            self._polling = False
            self._loop.remove_reader(self.listener.sock)

    def _pump(self) -> None:
        """Hand over what waits, as long as somebody has credit."""
        if self._is_closed:
            return
        if self.finishing is not None:
            self._go_on_finishing()
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
        if shares or was_starving or self._starving:  # starving, the timer may have been left to an ack
            self._arm(now)

    def _accept(self) -> tuple[int, Any] | None:
        """One connection; None: there is none now, and polling is as it should be."""
        sock, watch = self.listener.sock, self.listener.watch
        for _ in range(
            BURST
        ):  # connections that have failed already: no more of them at a time than of others
            try:
                fd, peer = accept(sock) if watch is None else watch.accept(sock)
            except (BlockingIOError, InterruptedError):
                self._start_polling()
                return None
            except OSError as exc:
                trouble = trouble_of(exc)
                if trouble is Trouble.CONNECTION:
                    continue
                if trouble is Trouble.PAUSE:
                    self._pause_accepting(exc)
                else:
                    self._stop_polling()
                return None
            self._accepted += 1
            return fd, peer if type(peer) is tuple else on_the_wire(peer)
        self._start_polling()
        return None

    def _pause_accepting(self, exc: OSError) -> None:
        log.warning("accept on %s: %s; the backlog keeps connections", self.listener.what, exc.strerror)
        self._stop_polling()
        self._pause = self._loop.call_later(PAUSE, self._resume_accepting)

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
        size = 1 if self.dispatcher.is_costly else lane.batch
        for start in range(0, len(share), size):
            part = share[start : start + size]
            fds = [fd for _, fd, _ in part]
            message = wire.encode(wire.Handover(part[0][0], [peer for _, _, peer in part]))
            try:
                holder.belt.send(message, fds)
            except OSError as exc:
                self._unsend(lane, share[start:])
                if exc.errno in BROKEN:
                    self._accuse(holder, ProtocolError(f"its belt is broken: {exc}"))
                return
            for fd in fds:
                os.close(fd)

    def _unsend(self, lane: Lane, share: list[tuple[int, int, Any]]) -> None:
        """The belt took no more: back to the head of the queue, and that worker rests a moment."""
        worker = lane.worker
        for number, fd, peer in reversed(share):
            self.dispatcher.returned(worker, number)
            self._queue.appendleft((fd, peer))
        self.dispatcher.pause(worker, Pause.BELT)
        self._loop.call_later(BELT_PAUSE, self._try_belt_again, worker)

    def _try_belt_again(self, worker: int) -> None:
        self.dispatcher.resume(worker, Pause.BELT)
        self._pump()

    # --- what workers say ---------------------------------------------------------------------------------

    def _take_note(self, worker: int, holder: Holder, word: Any, fds: list[int]) -> None:
        match word:
            case wire.Acked(last, cost):
                self.dispatcher.acknowledged(worker, last, self._loop.time(), cost / 1e6)
            case wire.GiveBack(number, peer):
                try:
                    self.dispatcher.returned(worker, number)
                except ProtocolError:
                    close_all(fds)
                    raise
                if fds:  # else we are out of descriptors, and the kernel dropped it
                    self._queue.append((fds[0], peer))
            case wire.Full():
                self.dispatcher.pause(worker, Pause.FULL)
                self._read_back(worker, holder)
                if worker == self.finishing:
                    self._relieve_finishing()

    def _heard(self) -> None:
        if self._starving or self._queue or self.finishing is not None:
            self._pump()

    # --- connections come back ----------------------------------------------------------------------------

    def _read_back(self, worker: int, holder: Holder) -> None:
        """Take from the belt what `worker` has not read. Each message goes to exactly one reader.

        The worker holds a duplicate of our end: what lies there may be of its own making.
        """
        error: ProtocolError | None = None
        for _ in range(LAST_WORDS):
            try:
                message = holder.belt.read_back()
            except OSError:
                break
            if message is None:
                break
            try:
                self._take_back(worker, *message)
            except ProtocolError as exc:
                error = exc
        if error is not None:
            self._accuse(holder, ProtocolError(f"read back from its belt: {error}"))

    def _take_back(self, worker: int, data: bytes, fds: list[int], is_truncated: bool) -> None:
        """Queue the connections of a message again. Raises ProtocolError, its descriptors closed."""
        try:
            handover = wire.decode_handover(data)
            peers = handover.peers
            if len(fds) != len(peers) and not (is_truncated and len(fds) < len(peers)):
                raise ProtocolError(f"{len(peers)} connections with {len(fds)} descriptors")
            for peer in peers:
                wire.check_peer(peer)
            self.dispatcher.returned(worker, handover.first, max(len(peers), 1))
        except (ProtocolError, ValueError) as exc:
            close_all(fds)
            raise ProtocolError(str(exc)) from exc
        self._queue.extend(zip(fds, peers, strict=False))
        if is_truncated:
            log.error("out of descriptors: %d connections lost", len(peers) - len(fds))

    def _arm(self, now: float) -> None:
        """Look again when a lane may have become late, or its belt is to be read back."""
        at = self.dispatcher.next_look(now) if self._starving else now + self.dispatcher.recall_after
        if at is None or (self._timer is not None and self._looks_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = at  # the handle does not tell, on uvloop
        self._timer = self._loop.call_at(max(at, now + FINEST), self._look)

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
            number = self.dispatcher.probe(lane, now)
            try:
                holder.belt.send(wire.encode(wire.Handover(number, [])), ())
            except OSError:  # full of what is not there any more: it will be free the next time
                self.dispatcher.returned(lane.worker, number)
