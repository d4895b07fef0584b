"""A worker whose primary is gone, when resources are short."""

import signal

#: No thread can be started (RLIMIT_NPROC, pids.max). The program does not end at SIGTERM.
WITHOUT_A_THREAD = """
import os, signal, threading
from everycore import held_signals
from everycore.system import orphan

def refuse(*_):
    raise RuntimeError("can't start new thread")

held_signals._start_thread = refuse
orphan.LEAST = orphan.LAST_STEPS = 0.1
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
orphan.Orphan(0.0).install()
os.kill(os.getpid(), signal.SIGIO)
threading.Event().wait()
"""


def test_without_a_thread_it_is_asked_and_ended_all_the_same(start_program):
    program = start_program(WITHOUT_A_THREAD)
    program.expect("^asked$")
    assert program.wait() == -signal.SIGALRM
