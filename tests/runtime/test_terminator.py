"""A signal that comes before the program's loop: the main thread hears it once, and none comes too late."""

import pytest

#: A primary that answers when `answer` is set, and a worker at its import. The main thread goes on.
WORKER = """
import os, signal, threading
from types import SimpleNamespace
from everycore.worker.boot import Terminator

answer = threading.Event()
post = SimpleNamespace(
    only_note=False,
    noted=[],
    ticket=SimpleNamespace(grace=5.0),
    connections=SimpleNamespace(open=0),
    link=SimpleNamespace(tell=lambda word: answer.wait()),
)
terminator = Terminator(post)
signal.signal(NUMBER, terminator)
os.kill(os.getpid(), NUMBER)

def live_on():
    "Longer than it takes for a signal to be sent again."
    threading.Event().wait(0.35)
    print("lives", flush=True)

def until(what):
    while not what():
        threading.Event().wait(0.001)
"""

HEARD_ONCE = """
post.only_note = True  # a loop is being made
answer.set()
until(lambda: post.noted)
signal.signal(NUMBER, DEFAULT)  # it has run and left
live_on()
assert post.noted == [NUMBER]
"""

TOO_LATE = """
post.only_note = True
signal.signal(NUMBER, DEFAULT)
answer.set()
live_on()
"""

THE_LOOPS = """
post.only_note = True
heard = []
signal.signal(NUMBER, lambda *_: heard.append(1))  # of a loop, which has not heard the first one
answer.set()
until(lambda: heard)
live_on()
assert heard == [1]
"""

WITHOUT_A_LOOP = """
answer.set()
threading.Event().wait()
"""

NUMBERS = pytest.mark.parametrize(
    ("number", "default"),
    [("signal.SIGTERM", "signal.SIG_DFL"), ("signal.SIGINT", "signal.default_int_handler")],
    ids=["TERM", "INT"],
)


def program(source, number, default):
    return (WORKER + source).replace("NUMBER", number).replace("DEFAULT", default)


@NUMBERS
@pytest.mark.parametrize("source", [HEARD_ONCE, TOO_LATE, THE_LOOPS], ids=["noted", "late", "the loop's"])
def test_it_does_not_come_again_when_the_loop_has_left(start_program, source, number, default):
    running = start_program(program(source, number, default))
    running.expect("^lives$")
    assert running.wait() == 0


@NUMBERS
def test_a_program_without_a_loop_ends_with_0(start_program, number, default):
    assert start_program(program(WITHOUT_A_LOOP, number, default)).wait() == 0
