"""The observer of a service, as its primary runs it: a process that serves metrics and health over HTTP.

The primary binds the observer's addresses before the first worker starts. It then starts the observer,
answers its questions on a socket pair, and starts it again when it ends. Invariant: nothing in the service
waits for the observer. `aio.control` reads its messages, within bounds. An observer that is silent for
`SILENCE` seconds is killed; a dead one costs a timer. It may look, and cannot give orders.

The observer shares its sockets with the primary, so that clients wait in the backlog while it is started
again. It ignores the signals that stop a service: a supervisor that sends TERM to all processes at once would
otherwise end it before the service reports that it stops. It ends with the primary, or when the primary kills
it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from everycore.aio.control import Attended, attend
from everycore.aio.deadline import Deadline
from everycore.aio.subscriptions import Subscription
from everycore.core import control
from everycore.core.control import ControlEvent
from everycore.core.measures import ObserverJob
from everycore.core.restarts import Backoff
from everycore.core.waits import WaitHistogram
from everycore.errors import ConfigurationError, ControlError
from everycore.model import ExitStatus
from everycore.primary.cluster import Cluster
from everycore.primary.process import WorkerProcess
from everycore.primary.steering import Steering
from everycore.system.addresses import as_url
from everycore.system.leash import Leash
from everycore.system.listeners import StreamListener
from everycore.system.processes import resolve_credentials
from everycore.system.seam import Linux, System
from everycore.system.tally import PrimaryTally

log = logging.getLogger("everycore.primary")

#: Seconds without a question after which the observer counts as hung. It asks at least three times as often.
SILENCE: Final = 30.0
_BACKLOG: Final = 128
#: Seconds between two beats of a worker's loop, if nothing watches for stalls.
_BEAT: Final = 1.0
#: Seconds that a killed observer has to be gone.
_LAST_CHANCE: Final = 5.0


class ObserverAddress(msgspec.Struct, frozen=True):
    """An address to listen on, as `socket.bind` takes it."""

    family: int
    address: Any


class ObserverPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How an observer is started. setting: the name of the setting that gives its addresses.

    command: its command line, without its `ObserverJob`. env: its whole environment. uid, gid: the user that
    it becomes; None leaves it unchanged.
    """

    setting: str
    addresses: tuple[ObserverAddress, ...]
    command: tuple[str, ...]
    env: dict[str, str]
    job: ObserverJob
    uid: int | None = None
    gid: int | None = None


class ObserverPost:
    """The observer of one pool. system: starts the process and reports its end."""

    def __init__(self, plan: ObserverPlan, system: System | None = None) -> None:
        self._plan = plan
        self._system = system or Linux()
        self._listeners: list[StreamListener] = []
        self._cluster: Cluster
        self._desk: _LookingDesk
        self._loop: asyncio.AbstractEventLoop
        self._tally: PrimaryTally | None = None
        self._process: WorkerProcess | None = None
        self._line: Attended | None = None
        self._again: asyncio.TimerHandle | None = None
        self._silence: Deadline
        self._backoff = Backoff()
        self._failures = 0
        self._since = 0.0
        self._gone: asyncio.Future[None] | None = None
        self._is_closed = False

    # --- before the first worker --------------------------------------------------------------------------

    def open(self, cluster: Cluster) -> None:
        """Listen, and let the cluster count what is needed. Raises ConfigurationError for an address."""
        cluster._distribution.waits = WaitHistogram()
        cluster._terms = msgspec.structs.replace(cluster._terms, least_beat=_BEAT)
        lacking: OSError | None = None
        try:
            for one in self._plan.addresses:
                try:
                    self._listen(one)
                except OSError as error:
                    lacking = lacking or error
            if lacking is not None and not (self._listeners and _is_lacking(lacking)):
                raise ConfigurationError(self._plan.setting, f"{lacking.strerror or lacking}".lower())
        except BaseException:
            self._close_listeners()
            raise

    def entered(self, cluster: Cluster) -> None:
        """Let the cluster's workers leave their own metrics."""
        runtime = cluster._runtime
        try:
            self._tally = runtime.tally = PrimaryTally()
        except OSError as error:
            log.warning("cannot collect the workers' own metrics: %s", error)
            return
        runtime.kept.add(self._tally.fd)
        runtime.terms = msgspec.structs.replace(runtime.terms, tally=self._tally.fd)

    def _listen(self, one: ObserverAddress) -> None:
        made = StreamListener.bound(one.address, family=one.family, v6only=True, backlog=_BACKLOG)
        try:
            made.listen()
        except BaseException:
            made.close()
            raise
        self._listeners.append(made)

    def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()

    # --- the process --------------------------------------------------------------------------------------

    def begin(self, cluster: Cluster, steering: Steering) -> None:
        """Start the observer."""
        self._cluster = cluster
        self._desk = _LookingDesk(steering, self._on_asked)
        self._loop = asyncio.get_running_loop()
        self._silence = Deadline(self._loop, self._be_silent)
        cluster._runtime.kept.update(listener.sock.fileno() for listener in self._listeners)
        for listener in self._listeners:
            log.info("metrics and health on %s", as_url(listener.real, "http"))
        self._start()

    def _start(self) -> None:
        self._again = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._spawn(theirs)
            except OSError as error:
                ours.close()
                self._end(f"cannot be started: {error}")
                return
        self._since = self._loop.time()
        self._process = process
        if process.pid is not None:
            self._cluster._runtime.helpers = {process.pid}
        ours.setblocking(False)
        self._cluster._runtime.kept.add(ours.fileno())
        forget = partial(self._cluster._runtime.kept.discard, ours.fileno())
        self._line = attend(ours, self._desk, on_closed=forget)
        self._silence.set_in(SILENCE)
        process.watch(self._on_exit)

    def _spawn(self, line: socket.socket) -> WorkerProcess:
        plan = self._plan
        fds = [listener.sock.fileno() for listener in self._listeners]
        tally = -1 if self._tally is None else self._tally.fd
        job = msgspec.structs.replace(plan.job, line=line.fileno(), listeners=tuple(fds), tally=tally)
        if tally >= 0:
            fds.append(tally)
        credentials, user_env = resolve_credentials(plan.uid, plan.gid, None, None)
        if credentials.uid not in (None, os.geteuid()):
            credentials = msgspec.structs.replace(credentials, is_confined=True)
        leash = Leash()
        try:
            spawned = self._system.spawn(
                [*plan.command, msgspec.json.encode(job).decode()],
                env={**plan.env, **user_env},
                cwd=None,
                stdio=[subprocess.DEVNULL, None, None],
                pass_fds=[line.fileno(), leash.theirs, *fds],
                credentials=credentials,
                new_group=True,
                leash=leash,
            )
        finally:
            leash.close()
        return WorkerProcess(self._loop, self._system, spawned, leads_group=True)

    def _on_exit(self, status: ExitStatus) -> None:
        self._process = None
        self._cluster._runtime.helpers.clear()
        if self._line is not None:
            self._line.close()
            self._line = None
        self._end(f"ended: {status}")

    def _end(self, how: str) -> None:
        """Start the observer again after its end, later each time."""
        self._silence.set(None)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self._is_closed:
            return
        self._failures = self._backoff.failures(self._failures, self._loop.time() - self._since)
        delay = self._backoff.delay(self._failures, random.random())
        log.warning("the observer %s; it is started again in %.1f s", how, delay)
        self._again = self._loop.call_later(delay, self._start)

    # --- what it says -------------------------------------------------------------------------------------

    def _on_asked(self) -> None:
        self._silence.set_in(SILENCE)

    def _be_silent(self) -> None:
        if self._process is not None:
            log.warning("the observer has asked nothing for %g s: killed", SILENCE)
            self._process.signal(signal.SIGKILL)

    # --- the end ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the observer with its service."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()
        try:
            if self._process is not None:
                self._gone = self._loop.create_future()
                self._process.signal(signal.SIGKILL)  # it has nothing to finish
                await asyncio.wait({self._gone}, timeout=_LAST_CHANCE)
        finally:
            self._close_listeners()
            if self._tally is not None:
                self._tally.close()


class _LookingDesk:
    """What the observer may ask: requests that change nothing."""

    def __init__(self, steering: Steering, on_asked: Callable[[], object]) -> None:
        self._steering = steering
        self._on_asked = on_asked

    async def answer(self, request: control.Request, tell: Callable[[ControlEvent], None]) -> object:
        self._on_asked()
        if isinstance(request, control.AskHello | control.AskStatus | control.AskMetrics):
            return await self._steering.answer(request, tell)
        raise ControlError("forbidden", "an observer may look, but not give orders")

    def follow(self, tell: Callable[[ControlEvent], None]) -> Subscription:
        return self._steering.follow(tell)

    def end(self) -> None:
        """Do nothing: the connection ends with the process."""


def _is_lacking(error: OSError) -> bool:
    """Whether this machine lacks the address: a host name may have others."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def observer_addresses(found: Iterable[tuple[Any, ...]]) -> tuple[ObserverAddress, ...]:
    """The addresses that `socket.getaddrinfo` has found."""
    return tuple(dict.fromkeys(ObserverAddress(int(one[0]), one[4]) for one in found))
