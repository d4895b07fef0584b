"""Processes that find the variable of a worker, and forks that are terminated."""

import os
import re
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

import everycore
from everycore import Cluster, Ready, Settings, State
from tests.kit import turn
from tests.kit.workers import HEAD, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: it is forked while it runs. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")


class TestTheVariable:
    def look_with(self, forged: str) -> tuple[str, str]:
        code = "import os, everycore; print(everycore.is_primary, os.environ.get('_EVERYCORE_WORKER'))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "_EVERYCORE_WORKER": forged},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, done.stderr

    @pytest.mark.parametrize("forged", ["", "1", "{}", '{"id":1}', "\udcff"], ids=ascii)
    def test_nonsense_is_ignored_and_removed(self, forged):
        assert self.look_with(forged) == ("True None\n", "")

    async def test_the_variable_of_another_worker_is_ignored_and_removed(self):
        async with Cluster(Settings(exec=["/bin/sleep", "1000"])) as cluster:
            worker = cluster.fork()
            text = ""
            while "_EVERYCORE_WORKER" not in text:  # exec(2) may not have set it up when fork() returns
                await turn()
                text = Path(f"/proc/{worker.pid}/environ").read_text(encoding="utf-8")  # noqa: ASYNC240
            variables = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
            worker.kill(SIGKILL)
        real = variables["_EVERYCORE_WORKER"]
        for forged in (
            real,
            re.sub(r'"channel":\[\d+,', '"channel":[0,', real),
            re.sub(r'"channel":\[\d+,', '"channel":[-1,', real),
            re.sub(r'"channel":\[\d+,', '"channel":[9999999999999,', real),
        ):
            assert self.look_with(forged) == ("True None\n", "")


def test_the_package_is_found_where_the_tests_think():
    """The subprocesses here import the same everycore as this process."""
    found = subprocess.run(
        [sys.executable, "-c", "import everycore; print(everycore.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == Path(everycore.__file__)


class TestForksThatAreTerminated:
    """multiprocessing ends its children by SIGTERM, which ends the child alone."""

    FORKS = """
import multiprocessing, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says that threads and fork do not mix
forking = multiprocessing.get_context("fork")

def terminated():
    child = forking.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return child.exitcode

def pooled():
    with forking.Pool(2) as pool:
        return pool.map(abs, [-1, -2])
"""

    @both_loops
    async def test_in_a_worker(self, tmp_path):
        source = """
async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async for message in everycore.current_worker().messages():
        await everycore.current_worker().send([terminated(), await asyncio.to_thread(pooled)])

everycore.run(main())
"""
        async with Cluster(Settings(exec=worker_script(tmp_path, self.FORKS + source))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Ready, worker)
            async with worker.messages() as messages:
                for _ in range(2):  # the first has not asked the worker to leave
                    await worker.send("fork")
                    assert (await within(anext(messages))).message == [-SIGTERM, [1, 2]]
            assert worker.state is State.LISTENING

    def test_in_a_primary(self, start_program, loop_kind):
        running = start_program(
            HEAD
            + self.FORKS
            + """
async def main():
    async with everycore.Cluster(everycore.Settings(exec="idle.py")) as cluster:
        say(terminated(), await asyncio.to_thread(pooled))
        await asyncio.sleep(0)
        say("open", len(cluster.workers))

everycore.run(main())
"""
        )
        running.expect(r"-15 \[1, 2\]")
        running.expect("open 0")
        assert running.wait() == 0
