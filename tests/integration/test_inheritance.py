"""What a worker inherits from the primary, and what children of both do not."""

import asyncio
import json
import os
import re
import socket
import sys
from collections import Counter
from signal import SIGKILL

import pytest

from everycore import Cluster, ExitStatus, Listening, Ready, Settings
from tests.kit import open_fds, scaled, wait_gone
from tests.kit.workers import ECHO, HEAD, Diary, program, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: it is forked while it runs. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

#: Reports, outside a worker, what it found: roles, variables, descriptors, and refusals.
LOOK = """\
def look():
    import everycore
    refused = []
    for what in (lambda: everycore.Cluster(), lambda: everycore.current_worker()):
        try:
            what()
        except everycore.RoleError:
            refused.append("RoleError")
        else:
            refused.append("allowed")
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return {
        "is_worker": everycore.is_worker,
        "is_primary": everycore.is_primary,
        "variables": [name for name in os.environ if name.startswith("_EVERYCORE")],
        "refused": refused,
        "sockets": sorted(what for fd, what in fds.items() if what.startswith("socket:") and fd > 2),
    }


def sockets():
    return sorted(
        what for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}") and int(fd) > 2
        and (what := os.readlink(f"/proc/self/fd/{fd}")).startswith("socket:")
    )
"""

NOBODY = {"is_worker": False, "is_primary": False, "variables": [], "refused": ["RoleError", "RoleError"]}
ANYBODY = {"is_worker": False, "is_primary": True, "variables": [], "refused": ["allowed", "RoleError"]}


class TestOfTheWorker:
    @both_loops
    async def test_it_inherits_stdio_and_the_cluster_s_own_descriptors_alone(self, tmp_path):
        """The same holds for everything that the primary has open, inheritable or not."""
        source = """
        async def main():
            await everycore.current_worker().send([found, sorted(os.environ)])
        everycore.run(main())
        """
        first = """import os
found = {
    fd: os.readlink(f"/proc/self/fd/{fd}")
    for fd in os.listdir("/proc/self/fd")
    if os.path.exists(f"/proc/self/fd/{fd}")
}
"""
        script = tmp_path / "worker.py"
        script.write_text(first + program(source))
        mine = socket.socket()
        mine.set_inheritable(True)
        with mine:
            async with Cluster(Settings(exec=script, stdio="null")) as cluster:
                worker = cluster.fork()
                found, variables = (await within(anext(worker.messages()))).message
                ours = set(open_fds().values())
        names = [what for fd, what in found.items() if int(fd) > 2]
        sockets = {what for what in names if what.startswith("socket:")}
        assert len(sockets) == 2  # channel and link
        assert not sockets & ours
        # The board is a memfd, the leash a pipe; nothing else.
        others = [what for what in names if not what.startswith(("socket:", "/memfd:", "/proc/"))]
        assert [what.partition(":")[0] for what in others] == ["pipe"]
        assert [name for name in variables if name.startswith("_EVERYCORE")] == []

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("subprocess.run([sys.executable, __file__, 'look'], env=os.environ)", ANYBODY),
            ("subprocess.run([sys.executable, __file__, 'look'], close_fds=False)", ANYBODY),
            ("posix_spawn(sys.executable, __file__, 'look')", ANYBODY),
            ("multiprocess('spawn')", ANYBODY),
            ("multiprocess('forkserver')", ANYBODY),
            ("multiprocess('fork')", NOBODY),
            ("fork()", NOBODY),
        ],
        ids=["subprocess", "close_fds=False", "posix_spawn", "spawn", "forkserver", "fork", "os.fork"],
    )
    def test_grandchildren_are_not_workers_and_hold_nothing_of_it(self, start_program, how, expected):
        source = (
            HEAD
            + "import multiprocessing, subprocess\n"
            + LOOK
            + f"""
at_import = sockets()

def tell():
    say("child", json.dumps(look()))

def multiprocess(method):
    child = multiprocessing.get_context(method).Process(target=tell)
    child.start()
    child.join()

def posix_spawn(*argv):
    os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)

def fork():
    if os.fork() == 0:
        tell()
        os._exit(0)
    os.wait()

async def worker():
    before = sockets()  # the loop has some of its own
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    plain = everycore.listen(("127.0.0.1", 0))
    say("worker", json.dumps(sorted(at_import + list(set(sockets()) - set(before)))))
    {how}

async def primary():
    async with everycore.Cluster(everycore.Settings(exec=__file__)) as cluster:
        say(await cluster.fork().wait())

if __name__ == "__main__":
    if sys.argv[1:] == ["look"]:
        tell()
    else:
        everycore.run(primary() if everycore.is_primary else worker())
"""
        )
        running = start_program(source)
        held = set(json.loads(running.expect("worker (.*)")[1]))
        assert len(held) == 2 + 2 * 2  # channel and link; both ends of two belts
        found = json.loads(running.expect("child (.*)")[1])
        assert held & set(found.pop("sockets")) == set()
        assert found == expected
        running.expect("exit status 0")
        assert running.wait() == 0

    @both_loops
    async def test_the_fork_of_a_worker_that_outlives_it_holds_up_nothing(self, tmp_path):
        """The child holds up neither the exit, nor the port, nor the connections."""
        source = """
        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            await everycore.current_worker().send(server.sockets[0].getsockname()[1])
            if (child := os.fork()) == 0:
                os.read(int(os.environ["HOLD"]), 1)
                os._exit(0)
            await everycore.current_worker().send(child)
            await for_ever()
        everycore.run(main())
        """
        hold, release = os.pipe()
        try:
            # A pipe by its path, since workers inherit nothing.
            source = source.replace(
                'int(os.environ["HOLD"])', f'os.open("/proc/{os.getpid()}/fd/{hold}", os.O_RDONLY)'
            )
            async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
                diary = Diary(cluster)
                worker = cluster.fork()
                messages = worker.messages()
                port = (await within(anext(messages))).message
                child = (await within(anext(messages))).message
                await diary.until(Ready)
                os.kill(child, 0)
                worker.disconnect()
                assert await within(worker.wait()) == ExitStatus(code=0)
                with socket.socket() as free:
                    free.bind(("127.0.0.1", port))
                os.kill(child, SIGKILL)
        finally:
            os.close(hold)
            os.close(release)

    @pytest.mark.parametrize("inside", [False, True], ids=["between two runs", "in the loop"])
    async def test_a_fork_that_exits_in_python_does_not_speak_for_the_worker(
        self, tmp_path, inside, loop_kind
    ):
        """The finalizers of its sockets run in the child: nothing of that reaches the primary."""
        if inside and loop_kind == "asyncio" and sys.version_info >= (3, 14):
            # In a forked child uvloop forgets which loop runs, and loses the SystemExit of the child's task.
            pytest.skip(
                "a child forked within asyncio's loop does not end by sys.exit, with or without everycore"
            )
        source = """
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        async def begin():
            global server, plain
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            plain = everycore.listen(("127.0.0.1", 0))

        def fork():
            if os.fork() == 0:
                server.close()
                plain.close()
                sys.exit(0)
            os.wait()

        async def go_on():
            await everycore.current_worker().send("forked")
            await server.serve_forever()

        async def main():
            await begin()
            fork()
            await go_on()

        if INSIDE:
            everycore.run(main())
        else:
            loop = everycore.new_event_loop(os.environ["EVERYCORE_TEST_LOOP"])
            loop.run_until_complete(begin())
            fork()
            loop.run_until_complete(go_on())
        """.replace("INSIDE", str(inside))
        settings = Settings(exec=worker_script(tmp_path, source), stdio=["null", "inherit", "null"])
        async with Cluster(settings) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            address = (await diary.until(Listening)).address
            assert (await within(anext(worker.messages()))).message == "forked"
            assert len(cluster.snapshot().listeners) == 2
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello\n")
            assert await within(reader.readline()) == b"hello\n"
            writer.close()
            await writer.wait_closed()


class TestOfThePrimary:
    SOURCE = (
        HEAD
        + "import multiprocessing\n"
        + LOOK
        + """
async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def worker():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    await server.serve_forever()

def child():
    say("child", os.getpid(), json.dumps(look()))
    while True:
        signal.pause()

async def primary():
    before = sockets()  # the loop has some of its own
    async with everycore.Cluster() as cluster:
        listening = cluster.events(everycore.Listening)
        cluster.fork()
        event = await anext(listening)
        say("listening", event.address[1], event.worker.pid)
        say("primary", json.dumps(sorted(set(sockets()) - set(before))))
        process = multiprocessing.get_context(sys.argv[1]).Process(target=child)
        process.start()
        await for_ever()

if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
"""
    )

    @pytest.mark.parametrize(
        ("method", "expected"), [("fork", NOBODY), ("spawn", ANYBODY), ("forkserver", ANYBODY)]
    )
    def test_its_other_children_hold_neither_ports_nor_channels(self, start_program, method, expected):
        running = start_program(self.SOURCE, method)
        port, worker = map(int, running.expect(r"listening (\d+) (\d+)").groups())
        held = set(json.loads(running.expect("primary (.*)")[1]))
        match = running.expect(r"child (\d+) (.*)")
        found = json.loads(match[2])
        assert len(held) == 2 + 1 + 2  # channel and link, the listener, both ends of the belt
        assert held & set(found.pop("sockets")) == set()
        assert found == expected
        # The primary dies; its child lives on, and does not keep the port or the worker.
        running.signal(SIGKILL)
        running.wait()
        assert wait_gone([worker], timeout=1) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=scaled(5))
        for pid in running.processes():
            os.kill(pid, SIGKILL)

    LEAVES = (
        HEAD
        + """
import gc

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def worker():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    await server.serve_forever()

def held():
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")]

async def primary():
    before = sorted(held())
    async with everycore.Cluster(policy=sys.argv[1]) as cluster:
        listening = cluster.events(everycore.Listening)
        worker = cluster.fork()
        address = (await anext(listening)).address
        if (child := os.fork()) == 0:
            more = sorted(held())
            mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
    if child == 0:
        del cluster, worker, listening
        gc.collect()
        kept = all(os.readlink(f"/proc/self/fd/{fd}") == "/dev/null" for fd in mine)
        say("child", "has kept its own" if kept else "has lost its own", json.dumps([before, more]))
        os._exit(0)

if __name__ == "__main__":
    everycore.run(primary() if everycore.is_primary else worker())
"""
    )

    @both_loops
    @pytest.mark.parametrize("policy", ["round_robin", "shared"])
    def test_a_fork_that_leaves_the_block_touches_nothing_that_is_not_its_own(self, start_program, policy):
        """The numbers of closed descriptors belong to other files by then, which it has opened."""
        running = start_program(self.LEAVES, policy)
        found = running.expect(r"child has (kept|lost) its own (.*)")
        # Without inodes: a loop makes its pipes again in a fork.
        before, after = (Counter(re.sub(r"\d+", "", what) for what in each) for each in json.loads(found[2]))
        assert found[1] == "kept"
        assert after == before  # also of batons, and of the board
        assert running.wait() == 0

    @both_loops
    async def test_a_fork_of_the_primary_while_it_serves_changes_nothing(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Ready)
            address = diary.all(Listening)[0].address
            before = open_fds()
            pid = os.fork()
            if pid == 0:
                try:
                    cluster.fork()
                except RuntimeError:
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0  # noqa: ASYNC222
            assert open_fds() == before
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x\n")
            assert await within(reader.readline()) == b"x\n"
            writer.close()
            await writer.wait_closed()
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=0)
