"""Random histories of the real dispatcher, with a backlog, belts and workers in memory.

The law: at every step, each accepted connection is exactly one of queued, on a belt, picked up, given back
(and then queued again). `law` checks this after every step, and that no connection waits in vain.
"""

from hypothesis import settings

from tests.kit.dispatch_histories import Histories

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40)
