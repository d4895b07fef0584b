"""A listener with a real loop, real sockets and real belts, in one process. This file plays the workers.

Time stands still unless a test moves it, so the test decides whether a worker is late or overdue.
"""

import asyncio
import contextlib
import errno
import os
import socket

from everycore.core import wire
from everycore.core.dispatch import Dispatcher
from everycore.core.listeners import ListenKey, Listing
from everycore.core.proxies import Proxies
from everycore.errors import ProtocolError
from everycore.foreign import socket_internals
from everycore.primary.listeners import acceptor as acceptor_module
from everycore.primary.listeners.attendance import NoWorkerBehaviour
from everycore.primary.listeners.distributor import Distributor
from everycore.primary.listeners.listener import Listener
from everycore.primary.listeners.sticky import StickyDistributor
from everycore.system import belt, packets
from everycore.system.belt import Belt, make_pair
from everycore.system.listeners import StreamListener
from tests.kit import VirtualClock, connected, scaled, turn
from tests.kit.seats import FakeSeat

clock = VirtualClock()


class ClockLoop(asyncio.SelectorEventLoop):
    """Its timers follow `clock`, which only tests move. Descriptors wake it as usual."""

    def time(self) -> float:
        return clock.now

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, run what was due, and handle what follows from that."""
        clock.advance(seconds)
        await turn(4)


class FakeWorker:
    """The worker's end of a belt, and everything that a worker may do with it."""

    def __init__(self, number, end):
        self.number = number
        self.end = end
        self.last = 0
        self.messages = 0
        self.taken = []

    def say(self, word, fds=()):
        assert belt.tell_primary(self.end, wire.encode(word), fds)

    def serve(self, batch=1, room=None):
        self.say(wire.Serve(batch, room))

    def take(self):
        """Take one message off the belt: (first number, sockets, peers), or None."""
        try:
            message = packets.receive(self.end)
        except BlockingIOError:
            return None
        if message is None:  # the other end is closed
            return None
        data, fds, truncated = message
        assert not truncated
        self.messages += 1
        handover = wire.decode_handover(data)
        self.last = handover.first + max(len(handover.peers), 1) - 1
        socks = [socket.socket(fileno=fd) for fd in fds]
        self.taken += socks
        return handover.first, socks, handover.peers

    def take_all(self):
        """Take everything off the belt. Returns client ports, in order."""
        ports = []
        while (message := self.take()) is not None:
            ports += [peer[1] for peer in message[2]]
        return ports

    def ack(self, last=None, cost=0):
        self.say(wire.Acked(self.last if last is None else last, cost))

    def give_back(self, number, sock, peer):
        self.taken.remove(sock)
        self.say(wire.GiveBack(number, peer), [sock.fileno()])
        sock.close()

    def close(self):
        for sock in self.taken:
            sock.close()
        self.taken.clear()
        self.end.close()


class Client:
    """A worker as a listener knows it: a `subscriber.Client`."""

    def __init__(self, number, stage):
        self.id = number
        self.seat = stage.seats.setdefault(number, FakeSeat(number - 1))
        self.user = os.geteuid()
        self._stage = stage

    def on_serving(self, listener):
        assert listener is self._stage.listener
        self._stage.events.append(("serving", self.id))

    def on_finished(self):
        self._stage.events.append(("finished", self.id))

    def on_violation(self, error):
        assert isinstance(error, ProtocolError)
        self._stage.events.append(("violated", self.id, str(error)))
        self._stage.listener.remove(self.id)


class Stage:
    """A listener, its workers and its clients."""

    def __init__(
        self,
        *,
        policy="round_robin",
        proxies=(),
        when_no_worker="refuse",
        hold_timeout=30.0,
        backlog=256,
        distribution=None,
    ):
        self.loop = asyncio.get_running_loop()
        self.socket = StreamListener.bound(
            ("127.0.0.1", 0), family=socket.AF_INET, v6only=True, backlog=backlog
        )
        self.events = []
        #: Worker -> its seat, for `sticky`. A test may set one before the worker comes.
        self.seats = {}
        if distribution is not None:
            self.distribution = distribution(self.loop, self.socket)
        elif policy == "sticky":
            self.distribution = StickyDistributor(self.loop, self.socket, None, Proxies(proxies))
        else:
            self.distribution = Distributor(self.loop, self.socket, Dispatcher(), Proxies(proxies))
        self.listener = Listener(
            self.loop,
            self.socket,
            Listing(1, ListenKey(self.socket.real, socket.AF_INET, socket.SOCK_STREAM), True, None),
            NoWorkerBehaviour(when_no_worker, hold_timeout),
            self._closed,
            self.distribution,
        )
        self.workers = {}
        self.clients = []

    def _closed(self, listener, worker):
        assert listener is self.listener
        self.events.append(("closed", worker))
        self.listener.remove(worker)

    async def worker(self, number, *, ready=True, batch=16):
        ours, theirs = make_pair()
        end = socket.socket(fileno=os.dup(theirs.fileno()))
        end.setblocking(False)
        worker = self.workers[number] = FakeWorker(number, end)
        self.listener.add(Client(number, self), Belt(ours, theirs), ready=ready)
        if batch:
            worker.serve(batch)
            await self.settled()
        return worker

    async def settled(self):
        """Wait until the listener has read every message: one turn of the loop polls, the next one acts."""
        await turn(4)

    async def connect(self, count=1, source=None):
        """Connect `count` clients. Returns their ports, in the order in which the kernel will return them.

        `source`: the address from which they connect.
        """
        ports = []
        for _ in range(count):
            sock = connected(self.socket.sock, self.socket.real, scaled(10), source)
            self.clients.append(sock)
            ports.append(sock.getsockname()[1])
        await self.settled()
        return ports

    def on_belts(self):
        return {number: worker.take_all() for number, worker in self.workers.items()}

    def outstanding(self, number):
        return self.distribution.account(number)[1]

    def close(self):
        self.listener.close()
        for worker in self.workers.values():
            worker.close()
        for sock in self.clients:
            sock.close()


@contextlib.asynccontextmanager
async def stage(*workers, **options):
    """A stage that listens, with these workers ready and asking to be served."""
    made = Stage(**options)
    try:
        made.listener.start()
        for number in workers:
            await made.worker(number)
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def short_belt(it, number, length):
    """Let the belt of that worker hold `length` messages, as if each were large."""
    subscriber = it.listener._subscribers[number]
    sent: list[bytes] = []

    class Short:
        def __getattr__(self, name):
            return getattr(real, name)

        def send(self, message, fds):
            lie = len(sent) - it.workers[number].messages
            if lie >= length:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            real.send(message, fds)
            sent.append(message)

    real, subscriber.belt = subscriber.belt, Short()
    try:
        yield
    finally:
        subscriber.belt = real


@contextlib.contextmanager
def blocked_belt(it, number):
    """Within the block, the belt of that worker is in the state of ETOOMANYREFS."""
    subscriber = it.listener._subscribers[number]

    class Blocked:
        def __getattr__(self, name):
            return getattr(real, name)

        def send(self, message, fds):
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    real, subscriber.belt = subscriber.belt, Blocked()
    try:
        yield
    finally:
        subscriber.belt = real


def fail_to_accept(monkeypatch, *numbers):
    """Let the next calls of accept(2) fail with these errors, one after the other."""
    failures = iter(numbers)
    real = socket_internals.accept

    def accept(sock):
        if (number := next(failures, None)) is not None:
            raise OSError(number, os.strerror(number))
        return real(sock)

    monkeypatch.setattr(acceptor_module, "accept", accept)
