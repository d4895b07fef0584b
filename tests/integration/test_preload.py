"""`Settings(preload=)`: a library program whose workers are forked from a mold."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys

import pytest

from everycore import Cluster, Exited, Forked, MoldFailed, Online, Pool, Ready, ReloadFailed, Settings
from everycore.system import molding
from tests.kit import wait_gone
from tests.kit.workers import IDLE, Diary, program, within, worker_script

pytestmark = pytest.mark.slow

#: Makes in the mold what all workers would share, and reports in each worker what it has of that.
PREPARED = """
import multiprocessing, os, random, threading, uuid
import everycore

WHO = os.getpid()
ROLE = everycore.is_primary, everycore.is_worker
HOOKS = []
everycore.after_fork(lambda: HOOKS.append("hook"))

def prepare():
    random.random(), uuid.uuid1(), multiprocessing.current_process().authkey
    os.environ["PREPARED"] = "yes"
"""
TELLS = """
import multiprocessing, random, uuid
import prepared

async def main():
    me = everycore.current_worker()
    await me.send({
        "mold": prepared.WHO, "role": list(prepared.ROLE), "hooks": prepared.HOOKS, "parent": os.getppid(),
        "random": random.random(), "uuid": uuid.uuid1().hex, "slot": os.environ["EVERYCORE_SLOT"],
        "authkey": bytes(multiprocessing.current_process().authkey).hex(),
        "env": os.environ.get("PREPARED"), "argv": sys.argv, "own": os.environ.get("OWN"),
        "fds": len(os.listdir("/proc/self/fd")), "stdin": os.readlink("/proc/self/fd/0"),
        "thread": threading.main_thread().native_id == threading.get_native_id() == os.getpid(),
        "main": sys.modules["__main__"].__file__,
    })
    everycore.ready()
    await for_ever()

everycore.run(main())
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "prepared.py").write_text(PREPARED)

    def make(source: str = TELLS, preload: str = "prepared:prepare", **rest) -> Settings:
        return Settings(exec=worker_script(tmp_path, program(source)), preload=preload, cwd=tmp_path, **rest)

    return make


@pytest.fixture
def is_subreaper():
    """Ask the kernel. Nothing is restored, since the answer should be no."""

    def ask() -> bool:
        found = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0)
        return bool(found.value)

    return ask


@pytest.fixture
def own_child():
    """A child of this program, which the cluster must leave alone."""
    reads = [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(5)"]
    with subprocess.Popen(reads, stdin=subprocess.PIPE) as child:
        yield child


async def test_workers_have_what_the_mold_imported_and_nothing_in_common(settings, is_subreaper, own_child):
    async with Cluster(settings(args=["word"], stdio=("null", "inherit", "inherit"))) as cluster:
        told: list[dict] = []
        workers = [cluster.fork({"OWN": "mine"} if number else None) for number in range(3)]
        assert all(worker.pid is None for worker in workers)
        for worker in workers:
            async for message in worker.messages():
                told.append(message.message)
                break
        assert not is_subreaper()
        assert own_child.poll() is None
        pids = {worker.pid for worker in workers}
        states = list(cluster._runtime.molds.states())
    own_child.communicate()
    assert own_child.returncode == 5
    assert len(pids) == 3
    for field in ("random", "uuid", "authkey", "slot"):
        assert len({it[field] for it in told}) == 3, field
    for it in told:
        assert it["parent"] == os.getpid()
        assert it["role"] == [False, False]
        assert (it["hooks"], it["env"], it["thread"]) == (["hook"], "yes", True)
        assert it["argv"] == [it["main"], "word"]
        assert it["stdin"] == "/dev/null"
    assert [it["own"] for it in told] == [None, "mine", "mine"]
    [mold] = {it["mold"] for it in told}
    assert states == [(mold, "serving", 3)]
    wait_gone([mold])


async def test_a_mold_that_cannot_import_is_the_end_of_the_workers_that_wait(settings, tmp_path):
    (tmp_path / "prepared.py").write_text("1 / 0")
    async with Cluster(settings()) as cluster:
        diary = Diary(cluster)
        cluster.fork()
        await diary.until(Exited)
        assert [type(event) for event in diary.all(Forked)] == [Forked]
        [event] = diary.all(Exited)
        assert isinstance(event.status.error, MoldFailed)
        assert "ZeroDivisionError" in event.status.error.report
        (tmp_path / "prepared.py").write_text(PREPARED)
        worker = cluster.fork()
        await diary.until(Online, worker)


async def test_workers_that_are_asked_to_leave_before_their_mold_is_ready_do_so_at_once(settings, tmp_path):
    (tmp_path / "prepared.py").write_text("import threading; threading.Event().wait()")
    async with Cluster(settings()) as cluster:
        diary = Diary(cluster)
        cluster.fork().disconnect()
        cluster.fork().kill(signal.SIGKILL)
        await diary.until(Exited, count=2)
        assert [event.voluntary for event in diary.all(Exited)] == [True, False]


@pytest.mark.ci_only
async def test_a_mold_killed_in_the_midst_of_forks_loses_no_worker(settings):
    async with Pool(
        4, settings=settings(IDLE.replace("await for_ever", "everycore.ready(); await for_ever"))
    ) as pool:
        diary = Diary(pool.cluster)
        for _ in range(3):
            await diary.until(Ready, count=4)
            [mold] = pool.cluster._runtime.molds.pids()
            os.kill(mold, signal.SIGKILL)
            pool.scale(8)
            await within(ready(pool, 8), 30)
            pool.scale(4)
            await within(alive(pool, 4), 30)
        pids = {worker.pid for worker in pool.workers.values()}
        assert all(molding.is_child(pid) for pid in pids if pid is not None)


async def ready(pool: Pool, count: int) -> None:
    while sum(worker.is_ready for worker in pool.workers.values()) < count:
        await next_event(pool)


async def alive(pool: Pool, count: int) -> None:
    while len(pool.workers) > count:
        await next_event(pool)


async def next_event(pool: Pool) -> None:
    async for _ in pool.events(Ready, Exited):
        return


async def test_a_reload_makes_a_new_mold_and_a_failed_one_leaves_all_as_it_is(settings, tmp_path):
    source = TELLS
    async with Pool(2, settings=settings(source), surge=0) as pool:
        diary = Diary(pool.cluster)
        await diary.until(Ready, count=2)
        [mold] = pool.cluster._runtime.molds.pids()
        before = {worker.pid for worker in pool.workers.values()}
        (tmp_path / "prepared.py").write_text("1 / 0")
        with pytest.raises(ReloadFailed) as caught:
            await within(pool.reload(), 30)
        assert caught.value.worker is None
        assert "ZeroDivisionError" in caught.value.report
        assert {worker.pid for worker in pool.workers.values()} == before
        assert pool.cluster._runtime.molds.pids() == {mold}
        (tmp_path / "prepared.py").write_text(PREPARED)
        await within(pool.reload(), 30)
        assert not before & {worker.pid for worker in pool.workers.values()}
        assert mold not in pool.cluster._runtime.molds.pids()


async def test_pipes_and_descriptors_are_each_workers_own(settings, tmp_path):
    read, write = os.pipe()
    os.set_blocking(read, False)
    source = f"""
os.write(1, b"out %d" % os.getpid()); os.write({write}, b"x")
sys.stderr.write(sys.stdin.readline())
"""
    try:
        async with Cluster(settings(source, stdio="pipe", pass_fds=[write])) as cluster:
            workers = [cluster.fork() for _ in range(2)]
            diary = Diary(cluster)
            for worker in workers:
                await diary.until(Forked, worker)
                assert worker.pid is not None
                assert worker.stdin is not None
                assert worker.stdout is not None
                assert worker.stderr is not None
                worker.stdin.write(b"line\n")
                assert await within(worker.stdout.read(), 20) == b"out %d" % worker.pid
                assert await within(worker.stderr.read(), 20) == b"line\n"
            await within(asyncio.gather(*(worker.wait() for worker in workers)), 20)
            os.close(write)
            assert os.read(read, 10) == b"xx"
            assert os.read(read, 10) == b""  # the mold has none of it
    finally:
        os.close(read)
