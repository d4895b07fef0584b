"""`FakeWorkers`: a primary's workers, played by a test.

This is the public face. `Player` acts for each worker as its real program would, by the real channel, link
and belts, from within the primary's own loop. Invariant: a fake worker sends and receives nothing that a real
one could not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Token
from functools import partial
from signal import SIGKILL, Signals
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

from everycore.aio.requests import Handler
from everycore.aio.subscriptions import Subscription
from everycore.core import wire
from everycore.foreign.signal_internals import signal_of
from everycore.listening import request_for
from everycore.model import ExitStatus
from everycore.system import seam
from everycore.testing.player import Player
from everycore.testing.processes import FakeProcess, FakeSystem
from everycore.worker.listening.clustersocket import ClusterSocket
from everycore.worker_face import MessageStream, Worker


class FakeWorker:
    """One worker, from the worker's side. A fork within `FakeWorkers` makes it; tests never construct one.

    The worker comes online with the first thing that it sends. After its end, every method that would act
    raises RuntimeError or ChannelClosed: a process that is gone does nothing.
    """

    __slots__ = ("__weakref__", "_player", "_process")

    def __init__(self, process: FakeProcess) -> None:
        self._process = process
        self._player = Player(process, asyncio.get_running_loop(), self)

    def __repr__(self) -> str:
        return f"<FakeWorker {self.id} slot={self.slot} pid={self.pid} {self.status or 'alive'}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """As `Worker.id`."""
        return self._process.ticket.id

    @property
    def slot(self) -> int:
        """As `Worker.slot`."""
        return self._process.ticket.slot

    @property
    def generation(self) -> int:
        """As `Worker.generation`."""
        return self._process.ticket.generation

    @property
    def pid(self) -> int:
        """A number that no real process has."""
        return self._process.pid

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line with which the worker was started."""
        return self._process.birth.argv

    @property
    def env(self) -> Mapping[str, str]:
        """The environment with which the worker was started."""
        return self._process.birth.env

    @property
    def cwd(self) -> str | None:
        """The directory in which the worker was started; None stands for the primary's."""
        return self._process.birth.cwd

    @property
    def stdin(self) -> IO[bytes] | None:
        """The worker's end of its standard input, with `stdio="pipe"`: read what the primary writes."""
        return self._process.pipes[0]

    @property
    def stdout(self) -> IO[bytes] | None:
        """The worker's end of its standard output, with `stdio="pipe"` or `silent`."""
        return self._process.pipes[1]

    @property
    def stderr(self) -> IO[bytes] | None:
        """The worker's end of its standard error, with `stdio="pipe"` or `silent`."""
        return self._process.pipes[2]

    @property
    def signals(self) -> tuple[Signals, ...]:
        """The signals that the primary has sent to the worker, in order."""
        return tuple(self._process.signals)

    @property
    def status(self) -> ExitStatus | None:
        """How the worker ended, or None while it lives."""
        return self._process.status

    # --- sending ------------------------------------------------------------------------------------------

    def online(self) -> None:
        """Come online and join the channel, as `import everycore` does in a real worker."""
        self._player.online()

    def ready(self) -> None:
        """Become ready, with or without a listener, as `everycore.ready()`."""
        self._player.tell(wire.ReadyNow())

    def hold_ready(self) -> None:
        """Do not become ready with the first listener, as `WorkerContext.hold_ready()`."""
        self._player.tell(wire.HoldReady())

    async def listen(
        self, address: tuple[str, int] | str | os.PathLike[str] = ("127.0.0.1", 0)
    ) -> ClusterSocket:
        """Listen, as `everycore.listen(address)`. The primary really binds the address.

        Returns the non-blocking socket, for `loop.sock_accept`. Raises: the primary's refusal as OSError;
        ChannelClosed if the worker ends before the answer.
        """
        return await self._player.listen(request_for(address))

    def send(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> Coroutine[Any, Any, None]:
        """As `WorkerContext.send`."""
        self._player.online()
        return self._player.mailbox.send(message, handle, keep_open=keep_open)

    def send_nowait(self, message: Any, handle: Any = None, *, keep_open: bool = False) -> None:
        """As `WorkerContext.send_nowait`."""
        self._player.online()
        self._player.mailbox.send_nowait(message, handle, keep_open=keep_open)

    def request(
        self, message: Any, handle: Any = None, *, timeout: float | None, keep_open: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """As `WorkerContext.request`."""
        self._player.online()
        return self._player.mailbox.request(message, handle, timeout=timeout, keep_open=keep_open)

    def answer(self, handler: Handler) -> Subscription:
        """As `WorkerContext.answer`. Requests fail without a handler, and wait for one that never returns."""
        return self._player.mailbox.answer(handler)

    def messages(self) -> MessageStream:
        """As `WorkerContext.messages`. The messages' `worker` is this `FakeWorker`."""
        return self._player.mailbox.messages()

    def disconnect(self) -> None:
        """Announce a voluntary departure, as `WorkerContext.disconnect()`. The worker does not end yet."""
        self._player.tell(wire.Leave())
        self._player.leave(self._process.ticket.grace)

    # --- receiving ----------------------------------------------------------------------------------------

    async def asked_to_leave(self) -> float:
        """Wait until the worker is asked to leave: by `disconnect` on either side, SIGTERM or SIGINT.

        Returns the grace that the worker has, in seconds.
        """
        return await asyncio.shield(self._player.asked)

    # --- its end ------------------------------------------------------------------------------------------

    def exit(self, code: int = 0) -> None:
        """End with this exit code. The primary still receives what was sent before."""
        self._player.end(ExitStatus(code=code))

    def die(self, signal: int = SIGKILL) -> None:
        """Die by `signal`, from any sender."""
        self._player.end(ExitStatus(signal=signal_of(signal)))

    def close_channel(self) -> None:
        """Lose the channel but go on living, as a process that closes descriptors it does not know."""
        self._player.close_channel()


#: A coroutine function that a fake worker runs by itself. When it returns, the worker exits with 0.
Life: TypeAlias = Callable[[FakeWorker], Coroutine[Any, Any, object]]


async def serve(worker: FakeWorker) -> None:
    """The life of a well-behaved worker: it is ready at once, and exits when it is asked to leave."""
    worker.ready()
    await worker.asked_to_leave()


class FakeWorkers:
    """Workers without processes, for every `Cluster` and `Pool` that is entered within the `with` block.

        with FakeWorkers() as workers:
            async with everycore.Cluster() as cluster:
                fake = workers[cluster.fork()]

    life: the coroutine function that each worker runs by itself, `serve` or one of your own. With None a
    worker does nothing by itself, and the test does everything. When the function returns, the worker exits
    with 0. When it raises `SystemExit`, the worker exits with its code. Any other error is the test's own
    mistake: it ends the worker with 1, and is raised when the block is left. If the block itself raises, a
    note about that error is added to the block's.
    """

    def __init__(self, life: Life | None = serve) -> None:
        self._life = life
        #: All forked workers, in order, including those that have ended.
        self.all: list[FakeWorker] = []
        self._system = FakeSystem(self._spawned)
        self._token: Token[seam.System] | None = None
        self._taken = 0
        self._waiting: list[asyncio.Future[None]] = []

    def __enter__(self) -> Self:
        self._token = seam.current.set(self._system)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._token is not None:
            seam.current.reset(self._token)
            self._token = None
        for worker in self.all:
            error = worker._player.error
            if error is not None and exc is None:
                raise error
            if error is not None and exc is not None:  # the first error may have caused the second
                exc.add_note(f"The life of fake worker {worker.id} has failed: {error!r}")

    def __getitem__(self, worker: Worker) -> FakeWorker:
        """Return the fake of `worker`. Raises KeyError if it was forked elsewhere, or never started."""
        for fake in self.all:
            if fake.pid == worker.pid:
                return fake
        raise KeyError(worker)

    async def forked(self) -> FakeWorker:
        """Wait for the next forked worker. Each worker is returned once, in order."""
        while len(self.all) <= self._taken:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        self._taken += 1
        return self.all[self._taken - 1]

    def refuse(self, error: OSError) -> None:
        """Let the next fork fail with `error`, as if the kernel had refused it. Further calls queue up."""
        self._system.refusals.append(error)

    def _spawned(self, process: FakeProcess) -> None:
        worker = FakeWorker(process)
        self.all.append(worker)
        if self._life is not None:
            worker._player.live(partial(self._life, worker))
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
