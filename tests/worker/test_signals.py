"""Signals to a worker, without its primary: the main thread handles each once, and in time."""

from signal import SIGINT, SIGTERM

import pytest

#: A primary that answers when `answer` is set, and a worker at its import. The main thread goes on.
WORKER = """
import asyncio, os, signal, sys, threading
import everycore
from everycore.worker.signals import WorkerSignals

answer = threading.Event()
signals = WorkerSignals(grace=GRACE, tell_primary=answer.wait, is_at_work=lambda: at_work())
signals.install(ignores_interrupt=False)

def at_work():
    return False

def send():
    os.kill(os.getpid(), NUMBER)

def live_on():
    "Longer than it takes for a signal to be sent again."
    threading.Event().wait(0.35)
    print("lives", flush=True)

def until(what):
    while not what():
        threading.Event().wait(0.001)

def run(main):
    "As `everycore.run` does in a worker."
    signals.loop_begins()
    try:
        asyncio.run(main())
    finally:
        signals.loop_ends()
"""

MADE_MEANWHILE = """
send()
heard = []
async def main():
    signals.loop_runs(asyncio.get_running_loop(), lambda: heard.append("leave"), None)
    answer.set()
    await asyncio.sleep(0.35)
run(main)
assert heard == ["leave"]
live_on()
"""

WHILE_IT_IS_MADE = """
signals.loop_begins()
send()
heard = []
async def main():
    signals.loop_runs(asyncio.get_running_loop(), lambda: heard.append("leave"), None)
run(main)
assert heard == ["leave"]
send()  # a supervisor repeats it
live_on()
"""

HEARD_BY_THE_LOOP = """
heard = []
async def main():
    signals.loop_runs(asyncio.get_running_loop(), lambda: heard.append("leave"), None)
    send()
    while not heard:
        await asyncio.sleep(0)
    send()
run(main)
assert heard == ["leave"]
live_on()
"""

NUMBERS = pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=["TERM", "INT"])


def program(source, number, grace="5.0"):
    return (WORKER + source).replace("NUMBER", f"signal.{number.name}").replace("GRACE", grace)


@NUMBERS
@pytest.mark.parametrize("source", [MADE_MEANWHILE, WHILE_IT_IS_MADE, HEARD_BY_THE_LOOP])
def test_only_the_loop_handles_it_and_only_once(start_program, source, number):
    running = start_program(program(source, number))
    running.expect("^lives$")
    assert running.wait() == 0


@NUMBERS
def test_a_program_without_a_loop_ends_with_0(start_program, number):
    source = "answer.set()\nsend()\nthreading.Event().wait()"
    assert start_program(program(source, number)).wait() == 0


@NUMBERS
def test_a_coroutine_that_was_about_to_run_is_not_complained_of(start_program, number):
    """The worker may be asked to leave between `main()` and `asyncio.run`."""
    source = """
async def main():
    pass
coroutine = main()
answer.set()
send()
threading.Event().wait()
"""
    running = start_program(program(source, number))
    assert running.wait() == 0
    assert running.stderr == ""


@NUMBERS
def test_what_its_primary_has_blocked_is_heard(start_program, number):
    """A signal mask survives exec."""
    source = """
signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
signals.install(ignores_interrupt=False, blocked=(NUMBER,))
answer.set()
send()
threading.Event().wait()
"""
    assert start_program(program(source, number)).wait() == 0


@NUMBERS
def test_what_is_held_back_until_the_program_begins_stays_so(start_program, number):
    """As `everycore run` does: a SystemExit during everycore's imports would show on stderr."""
    source = """
signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
signals.install(ignores_interrupt=False, blocked=(signal.SIGUSR1,))
send()
assert NUMBER in signal.sigpending()
live_on()
"""
    running = start_program(program(source, number))
    running.expect("^lives$")
    assert running.wait() == 0


@NUMBERS
def test_a_program_that_goes_on_after_its_loop_is_one_without_a_loop(start_program, number):
    source = """
async def main():
    signals.loop_runs(asyncio.get_running_loop(), None, None)
run(main)
answer.set()
send()
threading.Event().wait()
"""
    assert start_program(program(source, number)).wait() == 0


@NUMBERS
def test_a_loop_that_is_deaf_ends_by_the_signal(start_program, number):
    source = """
async def main():
    signals.loop_runs(asyncio.get_running_loop(), None, None)
    send()
    threading.Event().wait()
run(main)
"""
    running = start_program(program(source, number, grace="0.1"))
    assert running.wait() == -number


@pytest.mark.parametrize(("is_at_work", "waits"), [(False, True), (True, False)])
def test_a_loops_last_turns_are_not_taken_from_its_second_after_the_grace(start_program, is_at_work, waits):
    """A worker that has used all of its grace has one second until it is killed, and needs it to clean up."""
    source = """
import everycore.worker.signals as module
slept = []
module._sleep = slept.append
signals._is_at_work = lambda: AT_WORK
signals.be_guest()
answer.set()
async def main():
    send()
    await asyncio.Event().wait()
try:
    run(main)
except SystemExit:
    print("waited:", module._LAST_TURNS in slept)
""".replace("AT_WORK", str(is_at_work)).replace("run(main)", "asyncio.run(main())")
    running = start_program(program(source, SIGTERM, grace="0.1"))
    running.expect(f"^waited: {waits}$")
    assert running.wait() == 0


IN_NO_TASK = """
import everycore.worker.signals as module
slept = []
module._sleep = slept.append
module._LAST_TURNS = 60.0  # on a busy machine a few turns take their time
signals.be_guest()
answer.set()
async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(arrange, loop)
    await asyncio.Event().wait()
def arrange(loop):
    "In no task, as when a loop is idle."
    ARRANGE
    send()
try:
    asyncio.run(main())
except SystemExit:
    print(SAY)
"""


def test_an_idle_loop_that_is_asked_to_leave_is_not_waited_for(start_program):
    source = IN_NO_TASK.replace("ARRANGE", "pass").replace("SAY", '"waited:", module._LAST_TURNS in slept')
    running = start_program(program(source, SIGTERM))
    running.expect("^waited: False$")
    assert running.wait() == 0


def test_a_signal_from_outside_that_meets_a_task_is_not_waited_for(start_program):
    """The fixed time is for a process that signals itself at its end."""
    source = """
import everycore.worker.signals as module
slept = []
module._sleep = slept.append
module._LAST_TURNS = 60.0  # on a busy machine a few turns take their time
signals.be_guest()
answer.set()
async def main():
    threading.Thread(target=send).start()
    until(lambda: signals._machine.stage is module.WorkerStage.WAITING)
    await asyncio.Event().wait()
try:
    asyncio.run(main())
except SystemExit:
    print("waited:", module._LAST_TURNS in slept)
"""
    running = start_program(program(source, SIGTERM))
    running.expect("^waited: False$")
    assert running.wait() == 0


def test_a_signal_that_meets_code_which_drops_exceptions_is_sent_again_at_once(start_program):
    """Such code is in the callbacks by which uvloop's loops report whether they are idle."""
    source = """
import everycore.worker.signals as module
module.AGAIN = 600.0
meets = []
def would_be_dropped(frame):
    meets.append(frame)
    return len(meets) < 3
module.would_be_dropped = would_be_dropped
signals.be_guest()
answer.set()
send()
until(lambda: False)
"""
    assert start_program(program(source, SIGTERM)).wait() == 0


def test_what_a_loop_was_just_given_is_counted_before_it_ends(start_program):
    """It stands still for a moment, then takes a connection, which ends when it was seen."""
    arrange = """
    given = []
    def is_at_work():
        looks.append(bool(given and given.pop()))
        return looks[-1]
    def take():
        threading.Event().wait(0.35)
        given.append(True)
    signals._is_at_work = is_at_work
    loop.call_soon(take)
"""
    source = "looks = []" + IN_NO_TASK.replace("    ARRANGE\n", arrange).replace(
        "SAY", '"seen:", True in looks'
    )
    running = start_program(program(source, SIGTERM))
    running.expect("^seen: True$")
    assert running.wait() == 0


def test_a_main_thread_that_waits_for_others_is_ended(start_program):
    """From Python 3.12 on, no thread can be started at that time."""
    source = """
answer.set()
def stay():
    until(lambda: not threading.main_thread().is_alive())
    print("waits", flush=True)
    threading.Event().wait()
threading.Thread(target=stay).start()
"""
    running = start_program(program(source, SIGTERM))
    running.expect("^waits$")
    running.signal()
    assert running.wait() == 0
    assert running.stderr == ""


# --- where no thread can be started (RLIMIT_NPROC, pids.max) ------------------------------------------------

NO_THREADS = """
from everycore import held_signals

def refuse(*_):
    raise RuntimeError("can't start new thread")

held_signals._start_thread = refuse
"""

UNTIL_THE_WORK_IS_DONE = """
looks = []
def at_work():
    looks.append(None)
    return len(looks) < 3
try:
    send()
    threading.Event().wait()
finally:
    print("looks:", len(looks), flush=True)
"""


@NUMBERS
def test_without_a_thread_it_waits_until_the_work_is_done(start_program, number):
    running = start_program(program(NO_THREADS + UNTIL_THE_WORK_IS_DONE, number))
    running.expect("^looks: 3$")
    assert running.wait() == 0
    assert running.stderr == ""


def test_without_a_thread_it_waits_for_the_grace_at_most(start_program):
    source = "def at_work():\n    return True\nsend()\nthreading.Event().wait()"
    running = start_program(program(NO_THREADS + source, SIGTERM, grace="0.1"))
    assert running.wait() == 0
    assert running.stderr == ""


def test_without_a_thread_the_alarm_of_the_program_is_left_alone(start_program):
    source = """
signal.signal(signal.SIGALRM, print)
def at_work():
    return True
try:
    send()
    threading.Event().wait()
finally:
    print(signal.getsignal(signal.SIGALRM) is print, signal.getitimer(signal.ITIMER_REAL), flush=True)
"""
    running = start_program(program(NO_THREADS + source, SIGTERM))
    running.expect(r"^True \(0.0, 0.0\)$")
    assert running.wait() == 0


def test_without_a_thread_a_loop_hears_it(start_program):
    running = start_program(program(NO_THREADS + HEARD_BY_THE_LOOP, SIGTERM))
    running.expect("^lives$")
    assert running.wait() == 0
