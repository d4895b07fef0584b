"""For tests of programs that use everycore: workers without processes, and a clock without waiting.

See docs/how-to/test-your-program.md. Nothing else of the package imports this.
"""

from everycore.testing.clock import VirtualTimeLoop, run, settle
from everycore.testing.workers import FakeWorker, FakeWorkers, Life, serve

__all__ = ["FakeWorker", "FakeWorkers", "Life", "VirtualTimeLoop", "run", "serve", "settle"]
