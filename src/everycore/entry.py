"""`run` and `new_event_loop`: where a program begins.

`asyncio.run`, with two additions. In a worker, servers listen through the primary and the worker ends
in the order of `worker.departure`; in a primary with an open `Cluster`, INT and TERM stop it gracefully.
Anywhere else it is plain `asyncio.run`. Invariant: signal handlers are restored, and what the program
itself raises or exits with wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from everycore import current
from everycore.aio.pausing import PausableLoop
from everycore.aio.shutdown import Shutdown, set_shutdown
from everycore.settings import check_loop, has_uvloop
from everycore.system.descriptors import fill_standard_streams

if TYPE_CHECKING:
    from everycore.worker.session import Session

T = TypeVar("T")
LoopKind = Literal["auto", "asyncio", "uvloop"]


def run(main: Coroutine[Any, Any, T], *, loop: LoopKind = "auto", debug: bool | None = None) -> T:
    """Run `main` and return what it returns, as `asyncio.run` does.

    In a worker, servers and datagram endpoints go through the primary; TERM and INT finish the
    work and leave. In a primary, the first TERM or INT lets the workers finish, then cancels `main`; INT
    after that does so at once. After TERM the process exits with status 0, after INT with
    KeyboardInterrupt, whose traceback Python does not print.

    loop: "uvloop", "asyncio", or "auto": uvloop in a worker if it is installed, else asyncio.

    Raises: ConfigurationError for an unknown `loop`, or one that is not installed; RuntimeError inside a
    running loop.
    """
    check_loop("loop", loop)
    if not asyncio.iscoroutine(main):
        raise TypeError(f"run() takes a coroutine, not {type(main).__name__}")
    session = current.session()
    if session is not None:
        session.signals.loop_begins()
    with contextlib.suppress(OSError):  # no /dev/null, or no descriptor is left: a loop says it better
        fill_standard_streams()  # else the loop's own descriptors get these numbers
    try:
        with asyncio.Runner(debug=debug, loop_factory=lambda: new_event_loop(loop)) as runner:
            if session is None:
                return runner.run(_as_primary(main))
            try:
                result = runner.run(_as_worker(session, main))
            finally:
                # Also when SystemExit or a bug ended it: what was sent before is sent.
                runner.run(session.finish())
            if session.departure.exit_code is not None:  # not in `finally`: the program's own end wins
                raise SystemExit(session.departure.exit_code)
            return result  # type: ignore[no-any-return]
    finally:
        main.close()
        if session is not None:
            session.signals.loop_ends()


def new_event_loop(kind: LoopKind = "auto") -> asyncio.AbstractEventLoop:
    """The loop that `run` uses, for `asyncio.Runner(loop_factory=...)`, anyio, pytest.

    Raises: ConfigurationError as `run`.
    """
    check_loop("loop", kind)
    session = current.session()
    if kind == "auto":
        # A primary gains nothing by uvloop: docs/explanation/how-a-connection-travels.md.
        kind = "uvloop" if session is not None and has_uvloop() else "asyncio"
    if kind == "uvloop":
        if session is not None:
            from everycore.worker.loops.uvloop_loop import ClusterUvloop

            return ClusterUvloop(session)
        import uvloop

        return uvloop.new_event_loop()
    if session is not None:
        from everycore.worker.loops.asyncio_loop import ClusterEventLoop

        return ClusterEventLoop(session)
    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:  # the program has set a policy of its own
        return loop
    loop.close()
    return PausableLoop()


async def _as_primary(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    shutdown = Shutdown(loop, task)
    set_shutdown(shutdown)
    try:
        result = await main
    except asyncio.CancelledError:
        if shutdown.signal is signal.SIGTERM:
            raise SystemExit(0) from None
        if shutdown.signal is signal.SIGINT:
            raise _interrupt() from None
        raise
    # `Pool.wait` returns when the last worker is gone, which may be a moment before `main` is cancelled.
    if shutdown.signal is signal.SIGINT:
        raise _interrupt()
    return result


def _interrupt() -> KeyboardInterrupt:
    """What SIGINT ends a program with, once its workers have finished: status 130, and nothing went wrong.

    So Python is not to print where in everycore it was raised. A `sys.excepthook` of the program's is told.
    """
    interrupt = KeyboardInterrupt()

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is not interrupt:
            sys.__excepthook__(kind, error, trace)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = show
    return interrupt


async def _as_worker(session: Session, main: Coroutine[Any, Any, Any]) -> Any:
    task = session.begin_main(_outcome(main))
    session.signals.loop_runs(asyncio.get_running_loop(), session.disconnect, task.cancel)
    try:
        result, leaving = await task
    except asyncio.CancelledError:
        # Ours, or that of a `serve_forever()` whose server a drain closed; else the program's own affair.
        current = asyncio.current_task()
        if not session.departure.has_begun or current is None or current.cancelling():
            raise
        return None
    if leaving is not None:
        raise leaving
    return result


async def _outcome(main: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What `main` returned, or how it leaves the process.

    A task that raises SystemExit stops the loop, and so does, later, the one that waits for it: that would
    cut `finish` short.
    """
    try:
        return await main, None
    except (SystemExit, KeyboardInterrupt) as exc:
        return None, exc


def ready() -> None:
    """Say that this worker takes connections from now on (after `hold_ready()`). Elsewhere: nothing."""
    session = current.session()
    if session is not None:
        session.readiness.ready()
