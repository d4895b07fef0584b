"""What the kernel shows of a process that computes, waits, is stopped, or is gone."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from everycore.system import activity as activity_module
from everycore.system.activity import activity


@pytest.fixture
def started():
    """Start Python code in another process. Returns after its first line of output."""
    processes = []

    def start(code: str) -> int:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in processes:
        process.kill()
        with process:
            process.wait()


def test_of_very_many_threads_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(activity_module, "MOST_THREADS", 2)
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    found = activity(os.getpid())
    end.set()
    for thread in threads:
        thread.join()
    assert found is not None
    assert len(found.waited) == 2


def test_ourselves():
    before = activity(os.getpid())
    assert before is not None
    total = sum(range(2_000_000))
    after = activity(os.getpid())
    assert total
    assert after is not None
    assert after.cpu > before.cpu > 0
    assert os.getpid() in after.waited
    assert all(seconds >= 0 for seconds in after.waited.values())
    assert not after.is_stopped


def test_each_thread_is_there(started):
    wait = "threading.Event().wait"
    code = (
        f"import threading; threading.Thread(target={wait}, daemon=True).start(); print(flush=True); {wait}()"
    )
    seen = activity(started(code))
    assert seen is not None
    assert len(seen.waited) == 2


def test_one_that_is_stopped(started):
    pid = started("import signal; print(flush=True); signal.pause()")
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    seen = activity(pid)
    assert seen is not None
    assert seen.is_stopped
    assert not seen.is_traced
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WCONTINUED)
    seen = activity(pid)
    assert seen is not None
    assert not seen.is_stopped


def test_one_that_is_traced(started):
    code = "import ctypes, signal; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print(flush=True); signal.pause()"
    seen = activity(started(code))
    assert seen is not None
    assert seen.is_traced


def test_nobody():
    assert activity(2**22 + 1) is None
