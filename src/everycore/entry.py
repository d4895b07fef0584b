"""`run` and `new_event_loop`: where a program begins.

`run` is `asyncio.run` with two additions. In a worker, servers listen through the primary, and the worker
ends in the order of `worker.departure`. In a primary with an open `Cluster`, SIGINT and SIGTERM stop it
gracefully. Anywhere else it is plain `asyncio.run`. Invariant: signal handlers are restored, and the
program's own exception or exit status wins.
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
    """Run `main` and return its result, as `asyncio.run` does.

    In a worker, servers and datagram endpoints go through the primary, and SIGTERM or SIGINT makes the worker
    finish its work and leave. In a primary, the first SIGTERM or SIGINT lets the workers finish, then cancels
    `main`; a later SIGINT cancels it at once. After SIGTERM the process exits with status 0, after SIGINT
    with KeyboardInterrupt, whose traceback Python does not print.

    loop: "uvloop", "asyncio", or "auto": uvloop in a worker if it is installed, else asyncio.

    Raises: ConfigurationError for a `loop` that is unknown or not installed; TypeError if `main` is no
    coroutine; RuntimeError inside a running loop.
    """
    check_loop("loop", loop)
    if not asyncio.iscoroutine(main):
        raise TypeError(f"run() takes a coroutine, not {type(main).__name__}")
    session = current.session()
    if session is not None:
        session.signals.loop_begins()
    with contextlib.suppress(OSError):  # without /dev/null or a free descriptor, the loop's error is clearer
        fill_standard_streams()  # otherwise the loop's own descriptors would get these numbers
    try:
        with asyncio.Runner(debug=debug, loop_factory=lambda: new_event_loop(loop)) as runner:
            if session is None:
                return runner.run(_as_primary(main))
            try:
                result = runner.run(_as_worker(session, main))
            finally:
                # Do this even if SystemExit or a bug ended `main`: messages sent before still leave.
                runner.run(session.finish())
            if session.departure.exit_code is not None:  # not in `finally`: the program's own exit wins
                raise SystemExit(session.departure.exit_code)
            return result  # type: ignore[no-any-return]
    finally:
        main.close()
        if session is not None:
            session.signals.loop_ends()


def new_event_loop(kind: LoopKind = "auto") -> asyncio.AbstractEventLoop:
    """The loop that `run` uses, for `asyncio.Runner(loop_factory=...)`, anyio, pytest.

    Raises: ConfigurationError, as `run` does.
    """
    check_loop("loop", kind)
    session = current.session()
    if kind == "auto":
        # A primary gains nothing from uvloop: docs/explanation/how-a-connection-travels.md.
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
    if type(loop) is not asyncio.SelectorEventLoop:  # the program has set its own event loop policy
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
    # `main` may also have returned: `Pool.wait` returns a moment before `main` is cancelled.
    if shutdown.signal is signal.SIGINT:
        raise _interrupt()
    return result


def _interrupt() -> KeyboardInterrupt:
    """The KeyboardInterrupt that ends a program after SIGINT, once its workers have finished (status 130).

    Nothing went wrong, so Python must not print its traceback. The program's own `sys.excepthook` still gets
    it.
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
        # The departure cancelled it, or closed the server of its `serve_forever()`. Any other cancellation is
        # the program's own.
        current = asyncio.current_task()
        if not session.departure.has_begun or current is None or current.cancelling():
            raise
        return None
    if leaving is not None:
        raise leaving
    return result


async def _outcome(main: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """The result of `main`, or the exception by which it leaves the process.

    A task that raises SystemExit stops the loop, and so does the task that awaits it, later. That would cut
    `finish` short.
    """
    try:
        return await main, None
    except (SystemExit, KeyboardInterrupt) as exc:
        return None, exc


def ready() -> None:
    """Declare this worker ready to take connections (after `hold_ready()`). Does nothing elsewhere."""
    session = current.session()
    if session is not None:
        session.readiness.ready()
