"""Starting processes, and reaping as PID 1 does: a subreaper (prctl(2)) inherits orphans in the same way."""

import errno
import os
import select
import signal
import subprocess
import sys

import pytest

from everycore.model import ExitStatus
from everycore.system import processes
from tests.kit import children, open_fds

SUBREAPER = """
    import ctypes, os, signal
    from everycore.system.processes import reap_strangers

    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    reader, writer = os.pipe()
    ours = os.fork()
    if not ours:
        os._exit(7)
    parent = os.fork()
    if not parent:
        if not os.fork():  # the orphan-to-be: it ends when it is one
            os.read(reader, 1)
            os._exit(3)
        os._exit(0)
    os.waitpid(parent, 0)
    os.write(writer, b"x")
    # The orphan is a child of ours now, and so is `ours`, a zombie since long; wait without reaping.
    os.waitid(os.P_PID, ours, os.WEXITED | os.WNOWAIT)
    orphan = next(int(pid) for pid in open("/proc/thread-self/children").read().split() if int(pid) != ours)
    os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
    finished = reap_strangers({ours})
    print("in the way" if not finished else "finished")
    print("ours:", os.waitstatus_to_exitcode(os.waitpid(ours, 0)[1]))
    print("then:", reap_strangers(set()))
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("nobody left")
"""


def test_strangers_are_reaped_and_known_children_are_not(start_program):
    program = start_program(SUBREAPER)
    assert program.wait() == 0
    # Whichever comes first in the kernel's list, the child is never touched, and the orphan is reaped.
    assert program.stdout.splitlines()[1:] == ["ours: 7", "then: True", "nobody left"]


def test_a_process_that_cannot_be_watched_is_not_left_behind(monkeypatch):
    """Otherwise nothing would ever signal it, or learn of its end."""

    def pidfd_open(pid):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    before = open_fds()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        processes.spawn(
            [sys.executable, "-c", "import signal; signal.pause()"],
            env={},
            cwd="/",
            stdio=[subprocess.PIPE] * 3,
            pass_fds=(),
            credentials=processes.Credentials(),
            new_group=False,
        )
    assert children(os.getpid()) == []
    assert open_fds() == before


def test_of_a_child_reaped_elsewhere_only_the_end_is_known():
    """`os.wait()` in another part of the program may reap it, or the kernel if SIGCHLD is ignored."""
    spawned = processes.spawn(
        [sys.executable, "-c", ""],
        env={},
        cwd="/",
        stdio=[subprocess.DEVNULL] * 3,
        pass_fds=(),
        credentials=processes.Credentials(),
        new_group=False,
    )
    try:
        os.waitpid(spawned.pid, 0)
        status = processes.reap(spawned.pidfd)
    finally:
        os.close(spawned.pidfd)
    assert status is not None
    assert isinstance(status.error, ChildProcessError)
    assert "status unknown" in str(status)


#: Leads a group, in which it has a child; prints the child's pid; ends as it is told to.
LEADER = """
import os, signal, sys
reader, writer = os.pipe()
child = os.fork()
if not child:
    os.read(reader, 1)
os.write(1, b"%d\\n" % child)
sys.stdin.readline()
"""


@pytest.mark.parametrize("is_killed", [True, False])
def test_of_a_killed_leader_the_whole_group_ends(is_killed):
    """A process that ended by itself may have meant its children to stay."""
    spawned = processes.spawn(
        [sys.executable, "-c", LEADER],
        env={},
        cwd="/",
        stdio=[subprocess.PIPE, subprocess.PIPE, None],
        pass_fds=(),
        credentials=processes.Credentials(),
        new_group=True,
    )
    stdin, stdout, _ = spawned.pipes
    assert stdin is not None
    assert stdout is not None
    child = os.pidfd_open(int(stdout.readline()))
    try:
        if is_killed:
            processes.send_signal(spawned.pidfd, signal.SIGKILL)
        else:
            stdin.write(b"\n")
        assert is_readable(spawned.pidfd, 20_000)
        status = processes.reap(spawned.pidfd, group=spawned.pid)
        assert status == (ExitStatus(signal=signal.SIGKILL) if is_killed else ExitStatus(code=0))
        if is_killed:
            assert is_readable(child, 20_000)
        else:
            assert not is_readable(child, 0)
            signal.pidfd_send_signal(child, signal.SIGKILL)
            assert is_readable(child, 20_000)
    finally:
        for fd in (spawned.pidfd, child):
            os.close(fd)
        stdin.close()
        stdout.close()


def is_readable(pidfd, milliseconds):
    """Whether the process ends within so many milliseconds."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(milliseconds))


#: A process that leads a group with a child in it, which both end at SIGUSR1.
GROUP = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(7))
if os.fork() == 0:
    # From where signals count: Python forgets what has come to a child before it is one.
    os.write(1, b"%d\\n" % os.getpid())
while True:
    time.sleep(0.05)  # one that comes in the moment before a wait without an end would wake nobody
"""


@pytest.mark.parametrize("whole", [True, False])
def test_a_signal_to_the_process_and_to_its_group(whole):
    spawned = processes.spawn(
        [sys.executable, "-c", GROUP],
        env={},
        cwd="/",
        stdio=[None, subprocess.PIPE, None],
        pass_fds=(),
        credentials=processes.Credentials(),
        new_group=True,
    )
    stdout = spawned.pipes[1]
    assert stdout is not None
    child = os.pidfd_open(int(stdout.readline()))
    try:
        assert processes.hears(spawned.pid, signal.SIGUSR1)
        assert not processes.hears(spawned.pid, signal.SIGUSR2)
        assert processes.send_signal(spawned.pidfd, signal.SIGUSR1, group=spawned.pid if whole else 0)
        assert is_readable(spawned.pidfd, 20_000)
        if not whole:
            assert not is_readable(child, 0)
            signal.pidfd_send_signal(child, signal.SIGUSR1)
        assert is_readable(child, 20_000)
        assert processes.reap(spawned.pidfd) == ExitStatus(code=7)
        assert not processes.send_signal(spawned.pidfd, signal.SIGUSR1)
        assert not processes.hears(spawned.pid, signal.SIGUSR1)
    finally:
        for fd in (spawned.pidfd, child):
            os.close(fd)
        stdout.close()
