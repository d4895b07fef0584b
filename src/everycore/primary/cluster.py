"""`Cluster`: a primary's workers and listeners.

This is the public face. It forks when it is told to, and never by itself (`everycore.Pool` does). Invariant:
after the `async with` block, however it was left, none of the cluster's processes, tasks, descriptors or
socket files remains. A cluster installs no signal handler. If SIGCHLD is ignored, it restores the default.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from everycore import role
from everycore.aio.emitter import EventStream
from everycore.aio.shutdown import current_shutdown
from everycore.aio.subscriptions import Subscription, check_plain, once
from everycore.errors import ClusterClosed, ConfigurationError, RoleError
from everycore.events import Event, Message, SetUp
from everycore.model import Snapshot
from everycore.primary import spawner
from everycore.primary.book import Book, Workers
from everycore.primary.driver import start_worker
from everycore.primary.ending import Ending
from everycore.primary.eventlog import EventLog
from everycore.primary.listeners.attendance import NoWorker
from everycore.primary.listeners.factory import DistributionSettings
from everycore.primary.molds import Molds
from everycore.primary.runtime import Runtime
from everycore.settings import Settings, check_count, check_env, check_seconds, choose_policy
from everycore.system import inherited, machine, processes, seam
from everycore.system.descriptors import fill_standard_streams
from everycore.worker_face import Worker

if TYPE_CHECKING:
    from everycore.settings import SettingsFields

E = TypeVar("E", bound=Event)


class Cluster:
    """A primary's workers and listeners, within `async with`.

    settings: how workers are started; see `setup_primary`.
    policy: how connections are distributed; takes precedence over `EVERYCORE_POLICY`.
    grace: seconds that a worker has to finish its work when it is asked to leave. Then it is killed.
    when_no_worker: "refuse" new connections while no worker is ready, or "hold" them in the backlog for up to
        `hold_timeout` seconds.
    recall_after: seconds after which a connection that a worker did not pick up goes to another one. None
        stands for 0.02, or 2 under `sticky`.
    trust_proxy_protocol: addresses and networks of proxies, "unix" for proxies on unix sockets, or "*" for
        all peers. Each of their connections begins with a header of the PROXY protocol, which names the
        client. Not available under the policy "shared".
    orphan_grace: seconds that workers have to finish when this process dies. With 0 they are killed at once.
    max_message: the largest message, in bytes.
    shutdown_timeout: seconds that a worker's program has at least for its own shutdown, once its work is done
        or its grace is over: for what `main` does after `wait_shutdown()`, and while it is cancelled.
    raise_nofile: raise the soft limit of descriptors (RLIMIT_NOFILE) to the hard one, here and in workers.

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
        recall_after: float | None = None,
        trust_proxy_protocol: Sequence[str] = (),
        orphan_grace: float = 0.0,
        max_message: int = 16 * 1024 * 1024,
        new_group: bool = False,
        shutdown_timeout: float = 0.0,
        raise_nofile: bool = True,
    ) -> None:
        if not role.is_primary:
            raise RoleError("a Cluster belongs to the primary; this process is a worker, or a fork of one")
        machine.require_linux("a Cluster")
        settings = settings or Settings()
        self._settings = settings if policy is None else settings.merged({"policy": policy})
        self._terms = spawner.SpawnTerms(
            grace=check_seconds("grace", grace),
            orphan_grace=check_seconds("orphan_grace", orphan_grace),
            max_message=check_count("max_message", max_message),
            new_group=new_group,
            shutdown_timeout=check_seconds("shutdown_timeout", shutdown_timeout),
        )
        self._distribution = DistributionSettings(
            policy=choose_policy(self._settings.policy, os.environ),
            when_no_worker=when_no_worker,
            hold_timeout=hold_timeout,
            recall_after=recall_after,
            trust_proxy_protocol=trust_proxy_protocol,
        )
        self._raise_nofile = raise_nofile
        self._log = EventLog()
        self._book = Book()
        self._ending = Ending(self._book)
        self._state: Literal["new", "open", "closing", "closed"] = "new"
        self._runtime: Runtime

    # --- the block ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClusterClosed("a Cluster can be entered only once; make a new one")
        loop = asyncio.get_running_loop()
        fill_standard_streams()
        inherited.learn_of_children()
        if self._raise_nofile:
            inherited.raise_descriptor_limit()
        system = seam.current.get()
        self._log.now = system.now
        self._runtime = Runtime(
            loop, self._terms, self._distribution, self._log, self._book, system, lambda: self._settings
        )
        self._ending.runtime = self._runtime
        self._state = "open"
        role.open_clusters += 1
        # The hook can't be unregistered, hence the weak reference: a closed cluster has nothing to close.
        os.register_at_fork(after_in_child=partial(_abandon, weakref.ref(self)))
        if (shutdown := current_shutdown()) is not None:
            shutdown.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._state == "closed":  # in a fork: the cluster belongs to the parent
            return
        self._state = "closing"
        try:
            if kind is not None and issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                await self._ending.kill_all()
            else:
                self._ending.begin()
                try:
                    await self.disconnect()
                except BaseException:
                    await self._ending.kill_all()
                    raise
        finally:
            self._close()

    def _close(self) -> None:
        if self._state != "closed":  # a fork that leaves the block has closed it already, and is not counted
            role.open_clusters -= 1
        self._state = "closed"
        self._runtime.close()
        if (shutdown := current_shutdown()) is not None:
            shutdown.discard(self)

    # --- workers ------------------------------------------------------------------------------------------

    @property
    def workers(self) -> Workers:
        """The live workers by id. An entry is removed just before its `Exited` is delivered."""
        return self._book.workers

    @property
    def policy(self) -> str:
        """How connections are distributed. The first fork fixes it."""
        return self._distribution.policy

    @property
    def _molds(self) -> Molds | None:
        return self._runtime.molds if self._state != "new" else None

    @property
    def settings(self) -> Settings:
        """How the next worker will be started."""
        return self._settings

    def _announce_stop(self) -> None:
        self._ending.is_announced = True

    def _begin_shut_down(self) -> None:
        self._ending.begin()

    async def _shut_down(self) -> None:
        await self._ending.run()

    def setup_primary(self, **changes: Unpack[SettingsFields]) -> None:
        """Change how later workers are started. Fields that are not named stay. Each call emits `SetUp`.

        The arguments are the fields of `Settings`. The first fork fixes `policy`.

        Raises: ConfigurationError; TypeError for a name that is not a field.
        """
        settings = self._settings.merged(changes)
        if "policy" in changes:
            chosen = choose_policy(settings.policy, os.environ)
            if self._book.last_id and chosen != self._distribution.policy:
                raise ConfigurationError("policy", "cannot change after the first fork")
            self._distribution.check_policy(chosen)
            self._distribution.policy = chosen
        self._settings = settings
        with contextlib.suppress(RuntimeError):  # before a loop runs, nothing can have subscribed
            asyncio.get_running_loop().call_soon(partial(self._log.emit, SetUp, settings=settings))

    def fork(self, env: Mapping[str, str | None] | None = None) -> Worker:
        """Start a worker and return at once. `env` is added to its environment; None removes a variable.

        If the process cannot be started, `Forked`, `Disconnected` and `Exited(error=...)` follow. The same
        events follow once `everycore.run` shuts the cluster down at a signal, or its `Pool` is stopped; that
        exit is voluntary.

        Raises: ClusterClosed; ConfigurationError for settings that cannot work; RoleError in a worker.
        """
        return self._fork(env)

    def _fork(
        self,
        env: Mapping[str, str | None] | None = None,
        *,
        slot: int | None = None,
        generation: int = 0,
        raises: bool = True,
    ) -> Worker:
        if not role.is_primary:
            raise RoleError("fork() belongs to the primary; this process is a fork of it")
        if self._state == "new":
            raise ClusterClosed("the cluster is not open: use `async with Cluster() as cluster:`")
        if self._state != "open":
            raise ClusterClosed(f"the cluster is {self._state}")
        if env is not None:
            check_env("env", env)
        request = spawner.SpawnRequest(self._settings, env, slot, generation, raises)
        return start_worker(self._runtime, request, withholds=self._ending.has_begun)

    async def broadcast(self, message: Any) -> int:
        """Send `message` to every connected worker. Returns how many it was sent to.

        Raises: TypeError, OverflowError, ValueError for a message that cannot be sent.
        """
        return await self._book.broadcast(message)

    async def disconnect(self, timeout: float | None = None) -> None:
        """Ask every worker to leave, and wait until all are gone. Workers can be forked again afterwards.

        Raises: TimeoutError after `timeout` seconds. It kills no worker; the end of a worker's grace does.
        """
        if self._distribution.when_no_worker == "refuse":
            self._ending.shut_listeners()  # else a cluster that goes on would make new clients wait
        for worker in self.workers.values():
            worker.disconnect()
        async with asyncio.timeout(timeout):
            await self.wait()

    async def wait(self) -> None:
        """Wait until the cluster has no worker."""
        if self._state != "new":
            await self._book.wait()

    # --- events -------------------------------------------------------------------------------------------

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """Call the plain function `callback` with each event of `kind`, or with every worker's messages."""
        if kind is Message:
            check_plain(callback)  # checked here, since there may be no worker yet to check it
            return self._book.on_message(callback)
        return self._log.listeners.on(kind, callback)

    def once(self, kind: type[E], callback: Callable[[E], object]) -> Subscription:
        """As `on`, but only for the next event."""
        if kind is Message:
            return once(self._book.on_message, callback)
        return self._log.listeners.once(kind, callback)

    @overload
    def events(self) -> EventStream[Event]: ...
    @overload
    def events(self, *kinds: type[E]) -> EventStream[E]: ...
    def events(self, *kinds: type[Event]) -> EventStream[Any]:
        """Life-cycle events from the call on, as an asynchronous iterator that ends with the cluster."""
        if Message in kinds:
            raise TypeError("events() carries no messages: use messages(), or on(Message, ...)")
        return self._log.listeners.events(*kinds)

    def snapshot(self) -> Snapshot:
        """The state of the cluster at this moment."""
        return Snapshot(
            workers=tuple(worker.snapshot() for worker in self.workers.values()),
            listeners=self._runtime.switchboard.snapshot() if self._state != "new" else (),
            is_stopping=self._ending.is_announced,
        )


def _abandon(reference: weakref.ref[Cluster]) -> None:
    """In a forked child (multiprocessing): leave the cluster to the parent."""
    cluster = reference()
    if processes.is_starting:  # the child becomes a worker at once, with the descriptors passed to it
        return
    if cluster is not None and cluster._state != "closed":
        cluster._state = "closed"
        cluster._runtime.abandon()
