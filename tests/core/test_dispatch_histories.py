"""Random histories of the real dispatcher, with a backlog, belts and workers in memory.

The law: each accepted connection is at every step in exactly one of queued, on a belt, picked up, given back
(and then queued again). `law` checks it after every step, and that nobody waits for what could be had.
"""

from hypothesis import settings

from tests.kit.dispatch_histories import Histories

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40)
