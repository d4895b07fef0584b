"""Answers every `listen`: finds or binds the listener, and connects the worker to it by a belt.

Job: act on what `core.listeners` decides; own all acceptors of one cluster. Invariant: a worker is in a
book entry's `holders` exactly while that entry's acceptor has a belt to it. Must not import the worker's
side.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.core.listeners import Bind, Conflict, Entry, ListenerBook, ListenKey
from everycore.errors import ProtocolError
from everycore.model import ListenerSnapshot
from everycore.primary.acceptor import Acceptor
from everycore.primary.host import Absence, ListenerHost, NoWorker, Owner
from everycore.primary.sharer import Sharer
from everycore.system.belt import Belt, make_pair
from everycore.system.descriptors import close_all, duplicate
from everycore.system.given import GivenListener, bind_given, is_v6only
from everycore.system.sockets import (
    FAMILIES,
    KINDS,
    DatagramSocket,
    StreamListener,
    describe,
    listen_error,
    off_the_wire,
    on_the_wire,
)


@dataclass(slots=True)
class Distribution:
    """How connections are given out: the part of a cluster's settings that concerns listeners.

    `policy` may still change until the first fork.
    """

    policy: str = "round_robin"
    when_no_worker: NoWorker = "refuse"
    hold_timeout: float = 30.0
    recall_after: float = 0.02


@dataclass(frozen=True, slots=True)
class Grant:
    """A `Granted` and the descriptors that go with it, which belong to whoever takes this."""

    message: wire.Granted
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom the switchboard tells.

    A worker is served by a listener; it has been given all who had come, and may be asked to leave; it broke
    the protocol of a belt.
    """

    listening: Callable[[int, Entry], None]
    finished: Callable[[int], None]
    violated: Callable[[int, ProtocolError], None]


class Switchboard:
    """All listeners of one cluster."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        distribution: Distribution,
        watcher: Watcher,
        internal: Callable[[], Iterator[int]],
    ) -> None:
        self._loop = loop
        self._distribution = distribution
        self._watcher = watcher
        self._internal = internal
        self._book = ListenerBook()
        self._ready: set[int] = set()
        self._resting: set[int] = set()

    # --- requests -----------------------------------------------------------------------------------------

    def listen(self, worker: int, request: wire.Listen, *, makes_ready: bool) -> Grant:
        """Give `worker` the listener it asks for. Raises OSError with the errno and text for it.

        `makes_ready`: listening makes this worker ready. It counts as such from the grant on, not from its
        first word on the belt: who connects the moment `start_server` has returned must not be refused.
        """
        self.hear(worker)
        key = _key_of(request)
        what = f"descriptor {key.fd}" if key.fd is not None else describe(key.address, key.family)
        if key.kind not in KINDS or (key.fd is None and key.family not in FAMILIES):
            raise listen_error(errno.EOPNOTSUPP, what)
        answer = self._book.ask(worker, key, v6only=request.v6only)
        if isinstance(answer, Conflict):
            raise listen_error(answer.errno, what)
        entry = self._bound(answer.key, request) if isinstance(answer, Bind) else answer.entry
        host: ListenerHost = entry.bound
        try:
            if request.start:
                host.start()
            grant = self._connect(worker, entry, request.request, starts=request.start and makes_ready)
        except BaseException:
            if not entry.holders:
                self._close(entry)
            raise
        return grant

    def start(self, worker: int, request: wire.StartListening, *, makes_ready: bool) -> None:
        """Listen on what was only bound.

        Raises OSError; ENOENT for a listener that `worker` does not hold.
        """
        self.hear(worker)
        entry = self._book.get(request.listener)
        if entry is None or worker not in entry.holders:
            raise OSError(errno.ENOENT, "no such listener")
        entry.bound.listener.backlog = request.backlog
        entry.bound.start()
        if makes_ready:
            self.set_ready(worker)

    def bind(self, worker: int, request: wire.Bind, given: socket.socket) -> Grant:
        """Give `worker` the listener for the address that its own socket `given` is to have.

        Raises OSError as bind(2) does. `given` is the listener from now on, or closed.
        """
        self.hear(worker)
        key = ListenKey(off_the_wire(request.address), given.family, given.type)
        v6only = is_v6only(given)
        with contextlib.ExitStack() as stack:
            stack.callback(given.close)
            if key.kind not in KINDS or key.family not in FAMILIES:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            answer = self._book.ask(worker, key, v6only=v6only)
            if isinstance(answer, Conflict):
                raise OSError(answer.errno, os.strerror(answer.errno))
            if isinstance(answer, Bind):
                place = (request.folder, request.name)
                listener = bind_given(given, key.address, mode=request.mode, place=place)
                stack.pop_all()
                entry = self._enter(answer.key, listener, v6only=v6only)
            else:
                entry = answer.entry
                _restore_name(entry)
        try:
            return self._connect(worker, entry, 0, starts=False)
        except BaseException:
            if not entry.holders:
                self._close(entry)
            raise

    def give_up(self, worker: int, listener: int) -> None:
        """`worker` did not wait for the listener that it was granted."""
        entry = self._book.get(listener)
        if entry is not None and worker in entry.holders:
            self._closed_by(entry, worker)

    def release(self, worker: int, listener: int) -> int:
        """Give the listener up, and return its descriptor. Raises OSError: EADDRINUSE if others hold it."""
        sock = self.listener_of(worker, listener)
        entry = self._book.get(listener)
        assert entry is not None
        if entry.holders != {worker}:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        fd = duplicate(sock.fileno())
        entry.bound.listener.let_go()
        self._close(entry)
        return fd

    def listener_of(self, worker: int, listener: int) -> socket.socket:
        """The listener itself. Raises OSError: ENOENT if `worker` does not hold it."""
        entry = self._book.get(listener)
        if entry is None or worker not in entry.holders:
            raise OSError(errno.ENOENT, "no such listener")
        sock: socket.socket = entry.bound.listener.sock
        return sock

    def _bound(self, key: ListenKey, request: wire.Listen) -> Entry:
        made = StreamListener if key.kind == socket.SOCK_STREAM else DatagramSocket
        if key.fd is not None:
            listener = made.adopted(key.fd, backlog=request.backlog, internal=set(self._internal()))
        else:
            listener = made.bound(
                off_the_wire(request.address),
                family=key.family,
                v6only=request.v6only,
                backlog=request.backlog,
                mode=request.mode,
            )
        return self._enter(key, listener, v6only=request.v6only)

    def _enter(self, key: ListenKey, listener: StreamListener, *, v6only: bool) -> Entry:
        entry = self._book.add(key, v6only=v6only, real=listener.real, bound=None)
        entry.bound = self._host(entry, listener)
        return entry

    def _host(self, entry: Entry, listener: StreamListener) -> ListenerHost:
        """Datagrams are always shared, as in Node: there is no connection to hand over."""
        owner = Owner(
            serving=partial(self._serving, entry),
            closed=partial(self._closed_by, entry),
            finished=self._finished,
            violated=self._watcher.violated,
        )
        absence = Absence(self._distribution.when_no_worker, self._distribution.hold_timeout)
        if self._distribution.policy == "shared" or entry.key.kind != socket.SOCK_STREAM:
            return Sharer(self._loop, listener, owner, absence)
        dispatcher = Dispatcher(recall_after=self._distribution.recall_after)
        return Acceptor(self._loop, listener, owner, absence, dispatcher)

    def _connect(self, worker: int, entry: Entry, request: int, *, starts: bool) -> Grant:
        """Raises OSError, having done nothing, when descriptors run out."""
        host: ListenerHost = entry.bound
        belt, fds = _make_belt(host)
        if starts:
            self._ready.add(worker)
        entry.holders.add(worker)
        host.add(worker, belt, ready=worker in self._ready)
        sock = host.listener.sock
        message = wire.Granted(
            request, entry.id, on_the_wire(host.listener.real), sock.family, sock.type, sock.proto
        )
        return Grant(message, fds)

    # --- workers come and go ------------------------------------------------------------------------------

    def set_ready(self, worker: int) -> None:
        """`worker` may be given connections of all it holds and will hold."""
        self._ready.add(worker)
        steps = (partial(entry.bound.set_ready, worker) for entry in self._book.held_by(worker))
        take_all(steps, f"worker {worker}")

    def rest(self, worker: int, *, finishes: bool) -> None:
        """`worker` gets no more connections: it is on its way out, and finishes its work, or is gone."""
        self._ready.discard(worker)
        self._resting.add(worker)
        steps = (partial(entry.bound.rest, worker, finishes=finishes) for entry in self._book.held_by(worker))
        take_all(steps, f"worker {worker}")

    def finish(self, worker: int) -> None:
        """As `rest`, of a worker that is to be asked to leave: once it no longer `is_finishing`."""
        self._ready.discard(worker)
        self._resting.add(worker)
        steps = (partial(entry.bound.finish, worker) for entry in self._book.held_by(worker))
        take_all(steps, f"worker {worker}")

    def is_finishing(self, worker: int) -> bool:
        """Whether it is still being given those who had come; `Watcher.finished` is told of the end."""
        return any(entry.bound.finishing == worker for entry in self._book.held_by(worker))

    def _finished(self, worker: int) -> None:
        if not self.is_finishing(worker):
            self._watcher.finished(worker)

    def remove(self, worker: int, *, voluntary: bool) -> None:
        """`worker` is gone. Its listeners go with the last holder, unless it died: then the address is kept.

        A replacement finds the same port again, and nobody can take it meanwhile.
        """
        self._ready.discard(worker)
        self._resting.discard(worker)
        keep = not voluntary or self._distribution.when_no_worker == "hold"
        held = self._book.held_by(worker)
        take_all((partial(self._disconnect, worker, entry, keep=keep) for entry in held), f"worker {worker}")
        # Also of what its program had closed, and then removed.
        take_all((partial(_restore_name, entry) for entry in self._book), f"worker {worker}")

    def _closed_by(self, entry: Entry, worker: int) -> None:
        # A draining worker closes its servers too: that is its departure, not the end of the listener.
        draining = worker in self._resting and self._distribution.when_no_worker == "hold"
        self._disconnect(worker, entry, keep=draining)

    def _disconnect(self, worker: int, entry: Entry, *, keep: bool) -> None:
        entry.holders.discard(worker)
        entry.bound.remove(worker)
        if not entry.holders and not keep:
            if isinstance(entry.bound.listener, GivenListener):
                entry.bound.listener.let_go()  # its program removes the file of a unix socket, or leaves it
            self._close(entry)
        else:
            _restore_name(entry)  # its program may have removed what it took for its own file

    def _close(self, entry: Entry) -> None:
        self._book.remove(entry)
        entry.bound.close()

    def _serving(self, entry: Entry, worker: int) -> None:
        self._watcher.listening(worker, entry)

    def hear(self, worker: int) -> None:
        """A `Close` that the worker put on a belt before this request comes before it."""
        for entry in self._book.held_by(worker):
            entry.bound.hear(worker)

    def close(self) -> None:
        """Close every listener."""
        take_all((partial(self._close, entry) for entry in self._book), "the end of the cluster")

    def abandon(self) -> None:
        """In a forked child: close our copies of all."""
        take_all((entry.bound.abandon for entry in self._book), "a fork")

    # --- looking ------------------------------------------------------------------------------------------

    def descriptors(self) -> Iterator[int]:
        """The numbers of listeners and belts that we opened."""
        for entry in self._book:
            yield from entry.bound.descriptors()

    @property
    def is_shared(self) -> bool:
        """Whether the workers accept by themselves, so that only the board knows how much."""
        return self._distribution.policy == "shared"

    def account(self, worker: int) -> tuple[int, int]:
        """Connections handed to `worker` so far, and those it has not acknowledged."""
        accounts = [entry.bound.account(worker) for entry in self._book.held_by(worker)]
        return sum(given for given, _ in accounts), sum(outstanding for _, outstanding in accounts)

    def snapshot(self) -> tuple[ListenerSnapshot, ...]:
        """Every listener now."""
        return tuple(
            ListenerSnapshot(
                address=entry.real,
                family=entry.bound.listener.family,
                kind=entry.key.kind,
                policy=entry.bound.policy,
                workers=tuple(sorted(entry.holders)),
                accepted=entry.bound.accepted,
                queued=entry.bound.queued,
            )
            for entry in self._book
        )


def _restore_name(entry: Entry) -> None:
    listener = entry.bound.listener
    if isinstance(listener, GivenListener):
        listener.restore_name()


def _make_belt(host: ListenerHost) -> tuple[Belt, tuple[int, ...]]:
    """A belt, and the descriptors that a worker gets of it and of `host`: all of them or none."""
    with contextlib.ExitStack() as undo:
        ours, theirs = make_pair()
        belt = Belt(ours, theirs)
        undo.callback(belt.close)
        fds: list[int] = []
        undo.callback(close_all, fds)
        fds.extend(duplicate(fd) for fd in (theirs.fileno(), ours.fileno(), *host.shared()))
        undo.pop_all()
    return belt, tuple(fds)


def _key_of(request: wire.Listen) -> ListenKey:
    if request.fd is not None:
        return ListenKey(None, request.family, request.kind, request.fd)
    return ListenKey(off_the_wire(request.address), request.family, request.kind)
