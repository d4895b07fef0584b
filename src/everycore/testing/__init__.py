"""Helpers for the tests of programs that use everycore: workers without processes, a clock without waiting.

See docs/how-to/test-your-program.md.
"""

from everycore.testing.clock import VirtualTimeLoop, run, settle
from everycore.testing.workers import FakeWorker, FakeWorkers, Life, serve

__all__ = ["FakeWorker", "FakeWorkers", "Life", "VirtualTimeLoop", "run", "serve", "settle"]
