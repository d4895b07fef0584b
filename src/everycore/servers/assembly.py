"""An application together with what serves it. A mold makes it for all its workers, or a worker for itself.

Invariant: before `join` is called, nothing here belongs to one worker, and no event loop is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from everycore.ops.access_log import Answered
from everycore.ops.job import Job
from everycore.servers.asgi import Asgi
from everycore.servers.engine_arguments import arguments
from everycore.servers.interfaces import as_asgi
from everycore.servers.lifespan import Lifespan
from everycore.servers.wsgi import WsgiApp

if TYPE_CHECKING:
    from everycore.servers.engines import Engine
    from everycore.servers.hypercorn_engine import HypercornEngine
    from everycore.servers.request_log import RequestLog
    from everycore.worker.session import Session


class Assembly:
    """One application, its lifespan, and its engine. Raises CannotBootError if one of them fails."""

    def __init__(self, job: Job, app: Callable[..., Any]) -> None:
        served = as_asgi(app, job.interface, job.threads)
        self._wsgi = served if isinstance(served, WsgiApp) else None
        self._log: RequestLog | None = None
        if job.access_log:
            from everycore.servers.request_log import RequestLog  # imported only if requests are logged

            served = self._log = RequestLog(served, partial(Answered.log, worker=None))
        self.app = Lifespan(served, job.lifespan)
        self.engine = engine_of(job, self.app)

    def join(self, session: Session | None, number: int | None) -> None:
        """Serve in the worker of that number. Both arguments are None in a process without a primary."""
        if self._log is not None:
            self._log.tell = partial(Answered.log, worker=number)
        if session is not None:
            self.app.requested = session.board.requested
            if self._wsgi is not None:
                session.heartbeat.hold_while(self._wsgi.is_stuck)


def engine_type(job: Job) -> type[Engine | HypercornEngine]:
    """Import the engine and return its class. Raises CannotBootError if it is not installed."""
    if job.engine_name == "hypercorn":
        from everycore.servers.hypercorn_engine import HypercornEngine

        return HypercornEngine
    from everycore.servers.engines import Engine

    return Engine


def engine_of(job: Job, app: Asgi) -> Engine | HypercornEngine:
    """Make the engine, with its options. Raises CannotBootError if it refuses them."""
    options = job.engine if job.engine_name == "hypercorn" else arguments(job.engine)
    return engine_type(job)(app, access_log=job.access_log, spread=job.spread, options=options)
