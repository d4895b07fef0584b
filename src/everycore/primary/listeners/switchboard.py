"""Answers every `listen`: finds or binds the listener, and connects the worker to it by a belt.

It acts on the decisions of `core.listeners`, and owns all listeners of one cluster. Invariant: a listener is
in the book until it is closed, and no longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from everycore.aio.steps import take_all
from everycore.core import wire
from everycore.core.listeners import OTHER_USER, BindNew, Conflict, ListenerBook, ListenKey
from everycore.kernel import os_error
from everycore.model import ListenerSnapshot
from everycore.primary.listeners.factory import DistributionSettings, ListenerFactory
from everycore.primary.listeners.leftovers import Leftovers
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.postponed import Postponed
from everycore.primary.listeners.subscriber import Client
from everycore.system.belt import Belt, make_pair
from everycore.system.descriptors import close_all, duplicate
from everycore.system.given import GivenListener, is_v6only
from everycore.system.listeners import BoundSocket, DatagramSocket
from everycore.system.sockets import (
    FAMILIES,
    KINDS,
    checked_backlog,
    describe,
    listen_error,
    off_the_wire,
    on_the_wire,
)
from everycore.system.wakeups import readable

log = logging.getLogger("everycore.primary")


class Grant(msgspec.Struct, frozen=True):
    """A `Granted` and its descriptors, which belong to the caller that gets this."""

    message: wire.Granted
    fds: tuple[int, ...]


class Switchboard:
    """All listeners of one cluster. `internal`: the descriptors on which workers must not listen."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: DistributionSettings,
        internal: Callable[[], Iterator[int]],
    ) -> None:
        self.settings = settings
        self._factory = ListenerFactory(loop, settings, internal, self._on_closed)
        self._book: ListenerBook[Listener] = ListenerBook()
        self._ready: set[int] = set()
        self._resting: set[int] = set()
        self._leftovers = Leftovers(loop, settings.hold_timeout, self._close_address)
        self.postponed = Postponed(loop, self._book, settings.passed)

    # --- requests -----------------------------------------------------------------------------------------

    def listen(
        self, client: Client, request: wire.Listen, *, makes_ready: bool, is_program: bool = False
    ) -> Grant:
        """Give `client` the listener that it asks for. Raises OSError with the errno and text for it.

        `makes_ready`: listening makes this worker ready. It counts as ready from the grant on, before its
        first message on the belt: a client that connects as `start_server` returns must not be refused.
        """
        self.read_belts(client.id)
        key = _key_of(request, client.user)
        what = f"descriptor {key.fd}" if key.fd is not None else describe(key.address, key.family)
        if key.kind not in KINDS or (key.fd is None and key.family not in FAMILIES):
            raise listen_error(errno.EOPNOTSUPP, what)
        answer = self._book.ask(client.id, key, v6only=request.v6only)
        if isinstance(answer, Conflict):
            raise listen_error(answer.errno, what, answer.why)
        if isinstance(answer, BindNew):
            sock = self._factory.bound(answer.key, request, user=_other(client.user))
            listener = self._listener(answer.key, sock, v6only=request.v6only, is_program=is_program)
        else:
            listener = answer.listener
        try:
            if request.start:
                listener.start()
            return self._connect(client, listener, request.request, starts=request.start and makes_ready)
        except BaseException:
            self._close_unheld(listener)
            raise

    def start(self, worker: int, request: wire.StartListening, *, makes_ready: bool) -> None:
        """Listen on a listener that is only bound.

        Raises OSError; ENOENT for a listener that `worker` does not hold.
        """
        self.read_belts(worker)
        listener = self._held(worker, request.listener)
        backlog = checked_backlog(request.backlog)
        if not listener.socket.is_listening:
            listener.socket.backlog = backlog
        listener.start()
        if makes_ready:
            self.set_ready(worker)
        self.postponed.has_gone_on(worker)

    def bind(self, client: Client, request: wire.Bind, given: socket.socket, *, is_last: bool) -> Grant:
        """Bind a program's socket; owns it. Raises the kernel's OSError; NotYet unless it `is_last`."""
        self.read_belts(client.id)
        key = ListenKey(off_the_wire(request.address), given.family, given.type, user=client.user)
        v6only = is_v6only(given)
        with contextlib.ExitStack() as stack:
            stack.callback(given.close)
            if key.kind not in KINDS or key.family not in FAMILIES:
                raise os_error(errno.EOPNOTSUPP)
            answer = self._book.ask(client.id, key, v6only=v6only, least=max(request.nth, 0))
            if isinstance(answer, Conflict):
                raise OSError(answer.errno, answer.why or os.strerror(answer.errno))
            if not is_last:
                self.postponed.check(answer, key, client.id)
            if isinstance(answer, BindNew):
                sock = self.postponed.bound(client.id, key, given, request)
                stack.pop_all()
                listener = self._listener(answer.key, sock, v6only=v6only, is_program=True)
            else:
                listener = answer.listener
                _restore_name(listener)
        try:
            return self._connect(client, listener, 0, starts=False)
        except BaseException:
            self._close_unheld(listener)
            raise

    def decline(self, worker: int, number: int) -> None:
        """Take back the listener that `worker` was granted and did not wait for."""
        listener = self._book.get(number)
        if listener is not None and listener.holds(worker):
            self._on_closed(listener, worker)

    def take_back(self, worker: int, number: int) -> int:
        """Give the listener up. Returns its descriptor. Raises OSError: EADDRINUSE if others hold it."""
        listener = self._held(worker, number)
        if listener.subscribers != [worker]:
            raise os_error(errno.EADDRINUSE)
        fd = duplicate(listener.socket.sock.fileno())
        listener.socket.keep_file()
        self._close(listener)
        return fd

    def listener_of(self, worker: int, number: int) -> socket.socket:
        """The listener's socket. Raises OSError: ENOENT if `worker` does not hold it."""
        return self._held(worker, number).socket.sock

    def _held(self, worker: int, number: int) -> Listener:
        listener = self._book.get(number)
        if listener is None or not listener.holds(worker):
            raise OSError(errno.ENOENT, "no such listener")
        return listener

    def _listener(self, key: ListenKey, sock: BoundSocket, *, v6only: bool, is_program: bool) -> Listener:
        if self._book.is_of_others(key, sock.real):
            sock.close()
            raise listen_error(errno.EADDRINUSE, sock.what, OTHER_USER)
        listener = self._factory.make(
            self._book.number(key, v6only=v6only, real=sock.real), sock, is_program=is_program
        )
        self._book.add(listener)
        return listener

    def _connect(self, client: Client, listener: Listener, request: int, *, starts: bool) -> Grant:
        """Connect the worker by a belt. Raises OSError, having done nothing, if descriptors run out."""
        belt, fds = _make_belt(listener)
        self._leftovers.taken(listener)
        if starts:
            self._ready.add(client.id)
        listener.add(client, belt, ready=client.id in self._ready)
        return Grant(_granted(listener, request), fds)

    def holders_of(self, user: int, is_it: Callable[[socket.socket], bool]) -> list[int]:
        """The workers of `user` that hold its first listener for which `is_it` is true."""
        theirs = (listener for listener in self._book if listener.listing.key.user == user)
        return next((listener.subscribers for listener in theirs if is_it(listener.socket.sock)), [])

    # --- workers come and go ------------------------------------------------------------------------------

    def set_ready(self, worker: int) -> None:
        """Note that `worker` may be given connections of every listener that it holds or will hold."""
        self._ready.add(worker)
        steps = (partial(listener.set_ready, worker) for listener in self._book.held_by(worker))
        take_all(steps, f"worker {worker}")

    def rest(self, worker: int, *, finishes: bool) -> None:
        """Give `worker` no more connections: it leaves and `finishes` its work, or is gone."""
        self._leave_rotation(worker, lambda listener: listener.rest(worker, finishes=finishes))

    def finish(self, worker: int) -> None:
        """As `rest`, for a worker that is to be asked to leave once it no longer `is_finishing`."""
        self._leave_rotation(worker, lambda listener: listener.finish(worker))

    def _leave_rotation(self, worker: int, step: Callable[[Listener], object]) -> None:
        self._ready.discard(worker)
        self._resting.add(worker)
        take_all((partial(step, listener) for listener in self._book.held_by(worker)), f"worker {worker}")

    def is_finishing(self, worker: int) -> bool:
        """Whether it still gets connections that had come. `Client.on_finished` tells when that ends."""
        return any(listener.is_finishing(worker) for listener in self._book.held_by(worker))

    def shut(self) -> None:
        """Shut every listener, since all workers are to leave: see `Listener.shut`."""
        take_all((listener.shut for listener in self._book), "the stop of all workers")

    def remove(self, worker: int, *, voluntary: bool) -> None:
        """Remove `worker`, which is gone. A listener goes with its last subscriber, unless that died.

        If it died, its replacement finds the same port again, and no other process can take it meanwhile.
        """
        self._ready.discard(worker)
        self._resting.discard(worker)
        self._leftovers.gone(worker)
        keep = not voluntary or self.settings.when_no_worker == "hold"
        held = self._book.held_by(worker)
        take_all(
            (partial(self._disconnect, worker, listener, keep=keep) for listener in held), f"worker {worker}"
        )
        # Also for listeners that its program had closed before it removed their files.
        take_all((partial(_restore_name, listener) for listener in self._book), f"worker {worker}")

    def _on_closed(self, listener: Listener, worker: int) -> None:
        # A draining worker closes its servers too: it leaves, and the listener stays.
        draining = worker in self._resting
        is_bound_only = isinstance(listener.socket, GivenListener) and not listener.has_listened
        keep = draining or not (is_bound_only or isinstance(listener.socket, DatagramSocket))
        self._disconnect(worker, listener, keep=keep and self.settings.when_no_worker == "hold")
        if not draining and not listener.subscribers and self._book.get(listener.listing.id) is not None:
            self._leftovers.add(listener, worker)

    def _disconnect(self, worker: int, listener: Listener, *, keep: bool) -> None:
        listener.remove(worker)
        if not listener.subscribers and not keep:
            self._close_address(listener)
        else:
            _restore_name(listener)  # the program may have removed it as its own file
            for given_up in self._leftovers.beyond_most(self._book):
                self._close_address(given_up)

    def _close_address(self, listener: Listener) -> None:
        if isinstance(listener.socket, GivenListener):
            listener.socket.keep_file()  # its program removes or leaves the file of a unix socket
        self._close(listener)

    def _close(self, listener: Listener) -> None:
        self._book.remove(listener)
        listener.close()
        self.postponed.look()

    def _close_unheld(self, listener: Listener) -> None:
        if not listener.subscribers:
            self._close(listener)

    def read_belts(self, worker: int) -> None:
        """Handle a `Close` that the worker put on a belt before the present request."""
        for listener in _with_news(self._book.held_by(worker), worker):
            listener.read_belt(worker)

    def close(self) -> None:
        """Close every listener."""
        self.postponed.close()
        self._leftovers.clear()
        take_all((partial(self._close, listener) for listener in self._book), "the end of the cluster")

    def abandon(self) -> None:
        """In a forked child: close the child's copies of all."""
        take_all((listener.abandon for listener in self._book), "a fork")

    def descriptors(self) -> Iterator[int]:
        """The descriptors of listeners and belts that the primary has opened."""
        for listener in self._book:
            yield from listener.descriptors()

    def account(self, worker: int) -> tuple[int, int]:
        """The connections handed to `worker` so far, and those that it has not acknowledged."""
        accounts = [listener.distribution.account(worker) for listener in self._book.held_by(worker)]
        return sum(given for given, _ in accounts), sum(outstanding for _, outstanding in accounts)

    def oldest(self, worker: int) -> float | None:
        """When the oldest unacknowledged connection was given to `worker`; None without one."""
        given = [listener.distribution.oldest(worker) for listener in self._book.held_by(worker)]
        return min((at for at in given if at is not None), default=None)

    def snapshot(self) -> tuple[ListenerSnapshot, ...]:
        """The present state of every listener."""
        return tuple(_snapshot_of(listener) for listener in self._book)


def _with_news(held: list[Listener], worker: int) -> list[Listener]:
    """The listeners on whose belts `worker` has said something: it may hold many."""
    belts = {listener.belt_of(worker): listener for listener in held}
    return [belts[belt] for belt in readable(belts)]


def _other(user: int) -> int | None:
    """`user`; None if it is this process's own."""
    return None if user == os.geteuid() else user


def _granted(listener: Listener, request: int) -> wire.Granted:
    sock = listener.socket.sock
    real = on_the_wire(listener.socket.real)
    return wire.Granted(request, listener.listing.id, real, sock.family, sock.type, sock.proto)


def _snapshot_of(listener: Listener) -> ListenerSnapshot:
    return ListenerSnapshot(
        address=listener.socket.real,
        family=listener.socket.family,
        kind=listener.listing.key.kind,
        policy=listener.distribution.policy,
        workers=tuple(sorted(listener.subscribers)),
        accepted=listener.distribution.accepted,
        queued=listener.distribution.queued,
    )


def _restore_name(listener: Listener) -> None:
    if isinstance(listener.socket, GivenListener):
        listener.socket.restore_name()


def _make_belt(listener: Listener) -> tuple[Belt, tuple[int, ...]]:
    """A belt, and a worker's descriptors of it and of `listener`: all of them or none."""
    with contextlib.ExitStack() as undo:
        ours, theirs = make_pair()
        belt = Belt(ours, theirs)
        undo.callback(belt.close)
        fds: list[int] = []
        undo.callback(close_all, fds)
        fds.extend(duplicate(fd) for fd in (theirs.fileno(), ours.fileno()))
        fds.extend(listener.distribution.shared())
        undo.pop_all()
    return belt, tuple(fds)


def _key_of(request: wire.Listen, user: int) -> ListenKey:
    if request.fd is not None:
        return ListenKey(None, request.family, request.kind, request.fd, user=user)
    return ListenKey(off_the_wire(request.address), request.family, request.kind, user=user)
