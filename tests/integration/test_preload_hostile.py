"""A mold that lies: no process passes for a worker that it is not, and nothing waits for ever."""

import signal
import sys
import textwrap

import pytest

from everycore import Cluster, Exited, MoldFailed, Settings
from everycore.primary import mold
from tests.kit.workers import Diary

pytestmark = pytest.mark.slow

HEAD = """
import json, os, signal, socket, sys, time
from everycore.core import mold_wire
from everycore.system import molding

ticket = json.loads(os.environ["_EVERYCORE_MOLD"])
sock = socket.socket(fileno=ticket["socket"][0])

def say(message):
    sock.send(mold_wire.encode(message))

say(mold_wire.MoldIsPrepared(0.0))
"""
#: What it says when it is asked for a worker, and how that worker ends.
CRIMES = {
    "garbage": ("sock.send(b'nonsense')", "unreadable message of a mold"),
    "prepared twice": ("say(mold_wire.MoldIsPrepared(0.0))", "a mold is prepared once"),
    "itself": (
        "say(mold_wire.WorkerIsThere()); say(mold_wire.MoldHasAnswered())",
        "it ended before it ran",
    ),
    "a grandchild": (
        """
        read, write = os.pipe()
        if os.fork() == 0:
            say(mold_wire.WorkerIsThere())
            os.close(write)
            signal.pause()
        os.close(write)
        os.read(read, 1)
        say(mold_wire.MoldHasAnswered())
        """,
        "it ended before it ran",
    ),
    "silence": ("os._exit(3)", "the mold ended: exit status 3"),
}


@pytest.mark.parametrize("crime", CRIMES)
async def test_crimes(crime, tmp_path, monkeypatch):
    source, report = CRIMES[crime]
    script = tmp_path / "mold.py"
    script.write_text(f"{HEAD}\nsock.recvmsg(200000)\n{textwrap.dedent(source)}\nsock.recvmsg(1)\n")
    monkeypatch.setattr(mold, "mold_command", lambda _: [sys.executable, str(script)])
    settings = Settings(exec=[sys.executable, str(script)], preload="nothing")
    async with Cluster(settings, new_group=True) as cluster:
        diary = Diary(cluster)
        cluster.fork()
        await diary.until(Exited)
        [event] = diary.all(Exited)
        assert isinstance(event.status.error, MoldFailed)
        assert report in event.status.error.report
        assert not cluster._runtime.molds.is_adopting


async def test_a_worker_cannot_pass_for_another(tmp_path, monkeypatch):
    """A worker that has kept the mold's socket reports a second time that it is there."""
    source = """
    mold = os.getpid()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    sock.recvmsg(200000)
    if molding.fork_for(ticket["primary"], lambda: say(mold_wire.WorkerIsThere())) is None:
        sock.recvmsg(200000)
        say(mold_wire.WorkerIsThere())
        os.kill(mold, signal.SIGUSR1)
        signal.pause()
    say(mold_wire.MoldHasAnswered())
    signal.sigwait({signal.SIGUSR1})
    say(mold_wire.MoldHasAnswered("there is none"))
    signal.pause()
    """
    script = tmp_path / "mold.py"
    script.write_text(f"{HEAD}\n{textwrap.dedent(source)}\n")
    monkeypatch.setattr(mold, "mold_command", lambda _: [sys.executable, str(script)])
    settings = Settings(exec=[sys.executable, str(script)], preload="nothing")
    async with Cluster(settings, new_group=True, grace=0.0) as cluster:
        diary = Diary(cluster)
        first, second = cluster.fork(), cluster.fork()
        await diary.until(Exited, second)
        [event] = diary.all(Exited)
        assert isinstance(event.status.error, MoldFailed)
        assert event.status.error.report == "there is none"
        assert (first.is_dead(), second.pid) == (False, None)


async def test_a_worker_that_is_killed_after_its_first_word_is_reaped(tmp_path, monkeypatch):
    """The primary may reap nobody whom it does not know: it has heard of this one once, and never again."""
    script = tmp_path / "mold.py"
    script.write_text(f"""{HEAD}
words = []

def say_there():
    if words:
        os.kill(os.getpid(), signal.SIGKILL)
    words.append(say(mold_wire.WorkerIsThere()))

sock.recvmsg(200000)
say(mold_wire.MoldHasAnswered(molding.fork_for(ticket["primary"], say_there)))
sock.recvmsg(1)
""")
    monkeypatch.setattr(mold, "mold_command", lambda _: [sys.executable, str(script)])
    async with Cluster(Settings(exec=[sys.executable, str(script)], preload="nothing")) as cluster:
        diary = Diary(cluster)
        cluster.fork()
        await diary.until(Exited)
        [event] = diary.all(Exited)
        assert event.status.signal == signal.SIGKILL
