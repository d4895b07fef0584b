"""A mold's work for `everycore serve`: it loads the application, once for all workers.

The command's `Settings.preload` names `prepare`, and the mold calls it. Each worker has its own lifespan,
event loop and listeners.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from everycore.ops.job import SECRETS, Job, read_job
from everycore.servers import program
from everycore.servers.assembly import Assembly, engine_type
from everycore.servers.loading import load_env_file
from everycore.servers.log_config import read_log_config
from everycore.servers.warming import warm

#: The name of `prepare` in `Settings.preload`.
PREPARE: Final = f"{__name__}:prepare"
_secrets: str | None = None
_app: Callable[..., Any] | None = None
_assembly: Assembly | None = None


def prepare() -> None:
    """Load the application that the worker's command line names. Raises CannotBootError."""
    global _app, _assembly, _secrets
    _secrets = os.environ.pop(SECRETS, None)
    job = read_job(sys.argv[1])
    load_env_file(job.env_file)
    read_log_config(job)
    engine_type(job)
    importlib.import_module(f"everycore.worker.loops.{_loop(job)}")
    _app = program.load(job, is_asked_again=True)
    if _app is not None and job.scheme == "http":  # with TLS, each worker reads the current certificate
        _assembly = Assembly(job, _app)
    warm(job)


def _loop(job: Job) -> str:
    from everycore.settings import has_uvloop

    return "asyncio_loop" if job.loop == "asyncio" or not has_uvloop() else "uvloop_loop"


def secrets() -> str | None:
    """The value that the variable SECRETS had in the mold."""
    return _secrets


def app() -> Callable[..., Any] | None:
    """The application, or None if there was no mold, or if the application needs a running loop to load."""
    return _app


def assembly() -> Assembly | None:
    """The assembly of the application; None if each worker makes its own."""
    return _assembly
