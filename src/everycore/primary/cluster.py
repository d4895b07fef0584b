"""`Cluster`: a primary's workers and listeners.

Job: the public face; forks when told to, and never by itself (that is `everycore.Pool`). Invariant: after the
`async with` block no process, task, descriptor or socket file of it is left, however the block was left.
It installs no signal handler. Must not import the worker's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from everycore import role
from everycore.aio.emitter import Emitter, EventStream
from everycore.aio.shutdown import current_shutdown
from everycore.aio.steps import take_all
from everycore.aio.subscriptions import Subscription, check_plain, name_of
from everycore.aio.waiting import see_through
from everycore.errors import ChannelClosed, ClusterClosed, ConfigurationError, RoleError
from everycore.events import Event, Message, SetUp, WorkerEvent
from everycore.model import Snapshot
from everycore.primary import spawner
from everycore.primary.driver import Home
from everycore.primary.host import NoWorker
from everycore.primary.switchboard import Distribution, Switchboard, Watcher
from everycore.primary.worker import Worker
from everycore.settings import Settings, check_choice, check_count, check_env, check_seconds, choose_policy
from everycore.system import machine
from everycore.system.board import PrimaryBoard
from everycore.system.descriptors import fill_standard_streams

if TYPE_CHECKING:
    from everycore.core.listeners import Entry
    from everycore.errors import ProtocolError
    from everycore.settings import Stdio

E = TypeVar("E", bound=Event)


class _Unset:
    """Stands for an argument that was not given, where None means something."""

    def __repr__(self) -> str:
        return "<unchanged>"


_UNSET: Any = _Unset()


def _check_no_worker(value: NoWorker) -> NoWorker:
    check_choice("when_no_worker", value, ("refuse", "hold"))
    return value


class Workers(Mapping[int, Worker]):
    """Worker id -> `Worker`, live; iterated as a copy, so that workers may come and go meanwhile."""

    def __init__(self, workers: dict[int, Worker]) -> None:
        self._workers = workers

    def __getitem__(self, key: int) -> Worker:
        return self._workers[key]

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._workers))

    def __len__(self) -> int:
        return len(self._workers)

    def values(self) -> ValuesView[Worker]:
        """The workers that live now; a copy."""
        return dict(self._workers).values()

    def items(self) -> ItemsView[int, Worker]:
        """Ids and workers that live now; a copy."""
        return dict(self._workers).items()

    def __repr__(self) -> str:
        return f"<Workers {list(self._workers.values())}>"


class Cluster:
    """A primary's workers and listeners, within `async with`.

    settings: how workers are started; see `setup_primary`.
    policy: who gets the next connection; goes before `EVERYCORE_POLICY`.
    grace: seconds that a worker has to finish its work when it is asked to leave; then it is killed.
    when_no_worker: "refuse" new connections while no worker is ready, or "hold" them in the backlog for up to
        `hold_timeout` seconds.
    recall_after: seconds after which a connection that a worker did not pick up is given to another.
    orphan_grace: seconds that workers have to finish when this process dies; 0: they are killed with it.
    max_message: the largest message, in bytes.

    Raises: RoleError in a worker, UnsupportedPlatform, ConfigurationError.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        policy: str | None = None,
        grace: float = 30.0,
        when_no_worker: NoWorker = "refuse",
        hold_timeout: float = 30.0,
        recall_after: float = 0.02,
        orphan_grace: float = 0.0,
        max_message: int = 16 * 1024 * 1024,
        new_group: bool = False,
    ) -> None:
        if not role.is_primary:
            raise RoleError("a Cluster belongs to the primary; this process is a worker, or a fork of one")
        machine.require_linux("a Cluster")
        settings = settings or Settings()
        self._settings = settings if policy is None else settings.merged({"policy": policy})
        self._terms = spawner.Terms(
            grace=check_seconds("grace", grace),
            orphan_grace=check_seconds("orphan_grace", orphan_grace),
            max_message=check_count("max_message", max_message),
            new_group=new_group,
        )
        self._distribution = Distribution(
            policy=choose_policy(self._settings.policy, os.environ),
            when_no_worker=_check_no_worker(when_no_worker),
            hold_timeout=check_seconds("hold_timeout", hold_timeout),
            recall_after=check_seconds("recall_after", recall_after),
        )
        self._emitter = Emitter()
        self._workers: dict[int, Worker] = {}
        self._ended: list[Worker] = []
        self._message_callbacks: list[_MessageCallback] = []
        self._last_id = 0
        self._seq = 0
        self._state: Literal["new", "open", "closing", "closed"] = "new"
        self._home: Home
        self._board: PrimaryBoard
        self._gone: asyncio.Event

    # --- the block ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClusterClosed("a Cluster is entered once; make another")
        loop = asyncio.get_running_loop()
        fill_standard_streams()
        switchboard = Switchboard(
            loop,
            self._distribution,
            Watcher(self._on_listening, self._on_finished, self._on_violation),
            self._internal_descriptors,
        )
        self._board = PrimaryBoard()
        self._home = Home(
            loop, switchboard, self._board, self._terms, self._emit, self._on_gone, self._next_event
        )
        self._gone = asyncio.Event()
        self._gone.set()
        self._state = "open"
        role.open_clusters += 1
        # It can't be unregistered, hence the weak reference: a closed cluster has nothing to close.
        os.register_at_fork(after_in_child=partial(_abandon, weakref.ref(self)))
        if (shutdown := current_shutdown()) is not None:
            shutdown.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._state == "closed":  # in a fork: the cluster is the parent's
            return
        self._state = "closing"
        try:
            if kind is not None and issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                await self._kill_all()
            else:
                try:
                    await self.disconnect()
                except BaseException:
                    await self._kill_all()
                    raise
        finally:
            self._close()

    async def _kill_all(self) -> None:
        """SIGKILL everybody and wait.

        A kill takes milliseconds, so not even a cancellation cuts this short.
        """
        take_all((partial(worker.kill, 9) for worker in self._workers.values()), "the end of the cluster")
        await see_through(self._gone.wait())

    def _close(self) -> None:
        if self._state != "closed":  # in a fork that leaves the block, it is closed already, and not counted
            role.open_clusters -= 1
        self._state = "closed"
        steps = [self._home.switchboard.close, self._board.close]
        steps += [worker._driver.close for worker in self._ended]
        take_all([*steps, self._emitter.close], "the end of the cluster")
        if (shutdown := current_shutdown()) is not None:
            shutdown.discard(self)

    # --- workers ------------------------------------------------------------------------------------------

    @property
    def workers(self) -> Workers:
        """The live workers by id. An entry leaves just before its `Exited` is delivered."""
        return Workers(self._workers)

    @property
    def policy(self) -> str:
        """Who gets the next connection; fixed by the first fork."""
        return self._distribution.policy

    @property
    def settings(self) -> Settings:
        """How the next worker will be started."""
        return self._settings

    def setup_primary(
        self,
        *,
        exec: str | os.PathLike[str] | Sequence[str] | None = _UNSET,
        args: Sequence[str] | None = _UNSET,
        exec_argv: Sequence[str] | None = _UNSET,
        cwd: str | os.PathLike[str] | None = _UNSET,
        env: Mapping[str, str | None] = _UNSET,
        stdio: Stdio | Sequence[Stdio] = _UNSET,
        silent: bool = _UNSET,
        uid: int | str | None = _UNSET,
        gid: int | str | None = _UNSET,
        groups: Sequence[int | str] | None = _UNSET,
        addresses: Sequence[Any] = _UNSET,
        umask: int | None = _UNSET,
        pass_fds: Sequence[int] = _UNSET,
        serialization: Literal["json", "pickle"] = _UNSET,
        policy: str | None = _UNSET,
    ) -> None:
        """Change how later workers are started; what is not named stays. Each call emits `SetUp`.

        The arguments are the fields of `Settings`. `policy` is fixed by the first fork.

        Raises: ConfigurationError.
        """
        arguments = locals()
        changes = {name: value for name, value in arguments.items() if name != "self" and value is not _UNSET}
        settings = self._settings.merged(changes)
        if "policy" in changes:
            chosen = choose_policy(settings.policy, os.environ)
            if self._last_id and chosen != self._distribution.policy:
                raise ConfigurationError("policy", "is fixed by the first fork")
            self._distribution.policy = chosen
        self._settings = settings
        with contextlib.suppress(RuntimeError):  # before any loop runs nobody can be listening
            asyncio.get_running_loop().call_soon(lambda: self._emit(SetUp, settings=settings))

    def fork(self, env: Mapping[str, str | None] | None = None) -> Worker:
        """Start a worker; returns at once. `env` is added to its environment; None removes a variable.

        If the process can't be started, `Forked`, `Disconnected` and `Exited(error=...)` follow.

        Raises: ClusterClosed; ConfigurationError for settings that can't work; RoleError in a worker.
        """
        return self._fork(env)

    def _fork(
        self, env: Mapping[str, str | None] | None = None, *, slot: int | None = None, generation: int = 0
    ) -> Worker:
        if not role.is_primary:
            raise RoleError("fork() belongs to the primary; this process is a fork of it")
        if self._state == "new":
            raise ClusterClosed("the cluster is not open: use `async with Cluster() as cluster:`")
        if self._state != "open":
            raise ClusterClosed(f"the cluster is {self._state}")
        if env is not None:
            check_env("env", env)
        slot = self._free_slot() if slot is None else slot
        seat = spawner.Seat(self._last_id + 1, slot, generation, self._board.allot())
        worker = Worker(self._home, seat, self._settings)
        try:
            worker._driver.spawn(env)
        except BaseException:
            self._board.release(seat.row)
            raise
        self._last_id = seat.id
        self._workers[worker.id] = worker
        self._gone.clear()
        for registration in self._message_callbacks:
            registration.add(worker)
        return worker

    def _free_slot(self) -> int:
        taken = {worker.slot for worker in self._workers.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    async def broadcast(self, message: Any) -> int:
        """Send `message` to every connected worker; returns how many there were.

        Raises: TypeError, OverflowError, ValueError for what can't be sent.
        """
        workers = [worker for worker in self._workers.values() if worker.is_connected()]
        results = await asyncio.gather(*(worker.send(message) for worker in workers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ChannelClosed):
                raise result
        return sum(result is None for result in results)

    async def disconnect(self, timeout: float | None = None) -> None:
        """Ask every worker to leave, and wait until all are gone. Workers can be forked again afterwards.

        Raises: TimeoutError after `timeout` seconds; workers are killed when their grace is over, not by
        this.
        """
        for worker in tuple(self._workers.values()):
            worker.disconnect()
        async with asyncio.timeout(timeout):
            await self.wait()

    async def wait(self) -> None:
        """Wait until there is no worker."""
        if self._state != "new":
            await self._gone.wait()

    # --- events -------------------------------------------------------------------------------------------

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each event of `kind`, or with every worker's messages."""
        if kind is Message:
            return self._on_message(callback, once=False)
        return self._emitter.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `on`, for the next one alone."""
        if kind is Message:
            return self._on_message(callback, once=True)
        return self._emitter.once(kind, callback)

    @overload
    def events(self) -> EventStream[Event]: ...
    @overload
    def events(self, *kinds: type[E]) -> EventStream[E]: ...
    def events(self, *kinds: type[Event]) -> EventStream[Any]:
        """Life-cycle events from the call on, as an asynchronous iterator that ends with the cluster."""
        return self._emitter.events(*kinds)

    def snapshot(self) -> Snapshot:
        """The cluster at this moment."""
        return Snapshot(
            workers=tuple(worker.snapshot() for worker in self._workers.values()),
            listeners=self._home.switchboard.snapshot() if self._state != "new" else (),
        )

    def _on_message(self, callback: Callable[[Any], object], *, once: bool) -> Subscription:
        check_plain(callback)  # here, for there may be no worker yet to say it

        def call(message: Any) -> None:
            subscription.cancel()
            callback(message)

        call.__qualname__ = name_of(callback)
        registration = _MessageCallback(call if once else callback)
        for worker in self._workers.values():
            registration.add(worker)
        self._message_callbacks.append(registration)
        subscription = Subscription(lambda: self._forget(registration))
        return subscription

    def _forget(self, registration: _MessageCallback) -> None:
        registration.cancel()
        if registration in self._message_callbacks:
            self._message_callbacks.remove(registration)

    def _next_event(self) -> tuple[int, float]:
        self._seq += 1
        return self._seq, time.time()

    def _emit(self, event_type: Callable[..., Event], /, **fields: Any) -> None:
        seq, at = self._next_event()
        event = event_type(seq=seq, at=at, **fields)
        if isinstance(event, WorkerEvent):
            # The worker's own listeners first, then the cluster's, as in Node.
            event.worker._emitter.emit(event)
        self._emitter.emit(event)

    # --- what drivers and the switchboard tell ------------------------------------------------------------

    def _on_listening(self, worker: int, entry: Entry) -> None:
        if worker in self._workers:
            self._workers[worker]._driver.listening(entry)

    def _on_finished(self, worker: int) -> None:
        if worker in self._workers:
            self._workers[worker]._driver.finished()

    def _on_violation(self, worker: int, error: ProtocolError) -> None:
        if worker in self._workers:
            self._workers[worker]._driver.violated(error)

    def _on_gone(self, worker: Worker) -> None:
        del self._workers[worker.id]
        for registration in self._message_callbacks:
            registration.forget(worker)
        if worker.stdout is not None or worker.stderr is not None:  # may be read to their end for a while
            self._ended = [ended for ended in self._ended if not ended._driver.is_closed]
            self._ended.append(worker)
        if not self._workers:
            self._home.loop.call_soon(self._check_gone)

    def _check_gone(self) -> None:
        """After the last `Exited` was delivered, so that who waits finds every event in its queue."""
        if not self._workers:
            self._gone.set()

    def _internal_descriptors(self) -> Iterator[int]:
        yield self._board.fd
        yield from self._home.switchboard.descriptors()
        for worker in self._workers.values():
            yield from worker._driver.descriptors()


def _abandon(reference: weakref.ref[Cluster]) -> None:
    """In a forked child (multiprocessing).

    Close what belongs to the primary, or ports and channels outlive it.
    """
    cluster = reference()
    if cluster is not None and cluster._state != "closed":
        cluster._state = "closed"
        steps: list[Callable[[], object]] = [cluster._home.switchboard.abandon, cluster._board.close]
        take_all([*steps, *(worker._driver.abandon for worker in cluster._workers.values())], "a fork")


class _MessageCallback:
    """One `on(Message, ...)` of the cluster: a subscription at each worker, those to come included."""

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self._callback = callback
        self._subscriptions: dict[int, Subscription] = {}

    def add(self, worker: Worker) -> None:
        self._subscriptions[worker.id] = worker.on(Message, self._callback)

    def forget(self, worker: Worker) -> None:
        self._subscriptions.pop(worker.id, None)

    def cancel(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.cancel()
        self._subscriptions.clear()
