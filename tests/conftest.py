"""Every test runs under the kit: nothing leaks, nothing hangs, and `async def` tests need no mark."""

import logging

import pytest

from everycore.ops import logs

pytest_plugins = ["tests.kit.plugin", "pytester"]


@pytest.fixture
def loggers_as_before():
    """For a test that configures the log in this process: all tests share the loggers."""
    found = [logging.getLogger(name) for name in (*logs.LOGGERS, "uvicorn.error")]
    before = [(it, it.level, it.propagate, it.handlers[:], it.filters[:]) for it in found]
    yield
    logs.close_files()
    for logger, level, propagate, handlers, filters in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
        logger.filters[:] = filters
