"""A process ends with the one that started it, whatever it runs, and as whatever user."""

import os
import signal
from signal import SIGKILL

import pytest

from everycore.system.leash import Leash
from tests.kit import open_fds, wait_gone

#: Starts `python -c CHILD` on a leash. It prints `pid` when the leash is tied, wherever the child is.
PARENT = """
import os, signal, subprocess, sys
from everycore.system.leash import Leash
from everycore.system.processes import Credentials, spawn

leash = Leash()
child = spawn(
    [sys.executable, "-c", sys.argv[1]],
    env=dict(os.environ),
    cwd="/",
    stdio=[subprocess.DEVNULL, None, None],
    pass_fds=(),
    credentials=Credentials(),
    new_group=sys.argv[2] == "group",
    leash=leash,
    orphan_signal=int(sys.argv[3]) if len(sys.argv) > 3 else signal.SIGKILL,
)
print("pid", child.pid)
sys.stdin.readline()
"""
IDLE = "import signal; signal.pause()"
#: The way in which a server gives up root clears PR_SET_PDEATHSIG.
OTHER_USER = (
    "import os, signal; os.setgid(65534); os.setuid(65534); os.write(1, b'changed\\n'); signal.pause()"
)
WITH_CHILD = (
    "import os, signal; pid = os.fork(); os.write(1, b'also %d\\n' % pid if pid else b''); signal.pause()"
)
DEAF = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); signal.pause()"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", ["group", "no group"])
@pytest.mark.parametrize("child", [IDLE, DEAF], ids=["idle", "deaf"])
def test_from_the_first_instruction_on(start_program, group, child):
    program = start_program(PARENT, child, group)
    pid = int(program.expect(r"pid (\d+)")[1])
    program.signal(SIGKILL)
    program.wait()
    assert wait_gone([pid], timeout=1) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_after_it_has_given_up_root(start_program):
    program = start_program(PARENT, OTHER_USER, "no group")
    pid = int(program.expect(r"pid (\d+)")[1])
    program.expect("changed")
    program.signal(SIGKILL)
    program.wait()
    assert wait_gone([pid], timeout=1) == []


def test_its_children_end_with_it_if_it_leads_a_group(start_program):
    program = start_program(PARENT, WITH_CHILD, "group")
    pids = [int(program.expect(r"pid (\d+)")[1]), int(program.expect(r"also (\d+)")[1])]
    program.signal(SIGKILL)
    program.wait()
    assert wait_gone(pids, timeout=1) == []


def test_another_signal_goes_to_the_process_alone(start_program):
    """It may finish its work, and is responsible for its children."""
    child = """if True:
        import os, signal
        signal.signal(signal.SIGIO, lambda *_: os.write(1, b'told %d\\n' % os.getpid()))
        os.fork()
        os.write(1, b'there\\n')
        while True:
            signal.pause()
    """
    program = start_program(PARENT, child, "group", str(int(signal.SIGIO)))
    pid = program.expect(r"pid (\d+)")[1]
    program.expect("there")
    program.expect("there")
    program.close_stdin()
    assert program.expect(r"told (\d+)")[1] == pid
    os.killpg(int(pid), SIGKILL)
    assert program.wait() == 0
    assert "told" not in program.stdout.rpartition(f"told {pid}")[2]


def test_what_is_not_tied_leaves_nothing():
    before = open_fds()
    Leash().close()
    leash = Leash()
    with pytest.raises(ProcessLookupError):
        leash.tie(2**22 + 1, SIGKILL, group=False)  # beyond the largest pid there is
    leash.close()
    assert open_fds() == before
