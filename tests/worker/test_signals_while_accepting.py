"""A program that a signal asks to leave while its loop is taking a connection."""

#: The helper thread's first check finds no open connection; later ones do, for a while.
WORKER = """
import asyncio, os, signal
from everycore.worker.signals import WorkerSignals

looks = 0
is_served = False

def is_at_work():
    global looks
    looks += 1
    if looks == 5:
        loop.call_soon_threadsafe(enough.set)
    return looks > 1 and not is_served

signals = WorkerSignals(30.0, lambda: None, is_at_work)
signals.install(ignores_interrupt=False)
signals.be_guest()

async def main():
    global is_served, loop, enough
    loop, enough = asyncio.get_running_loop(), asyncio.Event()
    os.kill(os.getpid(), signal.SIGTERM)
    await enough.wait()
    print("served", flush=True)
    is_served = True
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_its_end_is_not_lost_in_a_callback_of_c(start_program):
    """ctypes prints what a callback raises, and goes on, so the program is signalled again elsewhere."""
    source = """
import ctypes, os, signal
from everycore import held_signals
from everycore.worker.signals import WorkerSignals

signals = WorkerSignals(30.0, lambda: None, lambda: False)
signals.install(ignores_interrupt=False)
signals.be_guest()

def callback():
    os.kill(os.getpid(), signal.SIGTERM)
    while not signals._has_waited:
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # as the thread that has waited does

held_signals.DROPS_EXCEPTIONS.add(callback.__code__)
ctypes.CFUNCTYPE(None)(callback)()
signal.pause()
"""
    running = start_program(source)
    assert running.wait() == 0
    assert running.stderr == ""


def test_it_serves_the_connection_it_has_taken_before_it_ends(start_program):
    running = start_program(WORKER)
    running.expect("^served$")
    assert running.wait() == 0
