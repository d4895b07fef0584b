"""The death of either side: nothing is left behind, and the survivor learns of it.

Without the kernel's part: `tests/primary/test_cluster_life.py` and `test_driver.py`, in memory.
"""

import asyncio
import os
import signal
import socket
import textwrap
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from everycore import (
    Cluster,
    ExitStatus,
    Listening,
    Online,
    Ready,
    Settings,
)
from tests.kit import children, open_fds, scaled, turn, wait_gone
from tests.kit.inside import INSIDE
from tests.kit.workers import ECHO, HEAD, IDLE, Diary, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: A primary with one worker of each kind: an idle loop, a blocked one, and none at all.
ALL_KINDS = (
    HEAD
    + """
async def idle():
    say("pid", os.getpid())
    await for_ever()

async def blocked():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("pid", os.getpid())
    while True:
        signal.pause()

def loopless():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = everycore.listen(("127.0.0.1", 0))
    say("pid", os.getpid())
    listener.accept()

async def primary():
    async with everycore.Cluster(**eval(sys.argv[1])) as cluster:
        for _ in range(3):
            cluster.fork()
        if sys.argv[2] == "wait":
            await for_ever()
        await asyncio.to_thread(sys.stdin.readline)
        exec(sys.argv[2])

if everycore.is_primary:
    everycore.run(primary())
else:
    match everycore.current_worker().slot:
        case 0:
            everycore.run(idle())
        case 1:
            everycore.run(blocked())
        case 2:
            loopless()
"""
)

#: Adopts the orphans of the program it starts, to see how they end. Lines: the program's, then `PID STATUS`.
REAPER = (
    HEAD
    + """
import ctypes, subprocess
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
child = subprocess.Popen([sys.executable, *sys.argv[1:]])
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError:
        break
    say("ended", pid, os.waitstatus_to_exitcode(status))
"""
)


class TestOfThePrimary:
    def test_sigkill_leaves_no_process_after_one_second(self, start_program):
        program = start_program(ALL_KINDS, "{'grace': 1000}", "wait")
        pids = [int(program.expect(r"pid (\d+)")[1]) for _ in range(3)]
        program.signal(SIGKILL)
        assert program.wait() == -SIGKILL
        assert wait_gone(pids, timeout=1) == []

    @pytest.mark.parametrize(
        ("how", "status"),
        [
            ("os._exit(3)", 3),
            ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ],
    )
    def test_any_other_sudden_death(self, start_program, how, status):
        program = start_program(ALL_KINDS, "{}", how, env={"PYTHONFAULTHANDLER": None})
        pids = [int(program.expect(r"pid (\d+)")[1]) for _ in range(3)]
        program.write("now\n")
        assert program.wait() == status
        assert wait_gone(pids, timeout=1) == []

    @pytest.mark.parametrize(
        ("how", "status"), [("raise LookupError", 1), ("raise KeyboardInterrupt", -signal.SIGINT)]
    )
    def test_an_exception_leaves_no_process(self, start_program, how, status):
        program = start_program(ALL_KINDS, "{'grace': 0.1}", how)
        pids = [int(program.expect(r"pid (\d+)")[1]) for _ in range(3)]
        program.write("now\n")
        assert program.wait() == status
        assert wait_gone(pids, timeout=0) == []

    def test_while_workers_boot(self, start_program):
        """They have imported nothing yet, and have asked the kernel for nothing."""
        program = start_program(
            HEAD
            + """
async def primary():
    async with everycore.Cluster() as cluster:
        for _ in range(3):
            say("pid", cluster.fork().pid)
        await for_ever()

everycore.run(primary() if everycore.is_primary else for_ever())
"""
        )
        pids = [int(program.expect(r"pid (\d+)")[1]) for _ in range(3)]
        program.signal(SIGKILL)
        program.wait()
        assert wait_gone(pids, timeout=1) == []

    ORPHANS = (
        HEAD
        + INSIDE
        + """
async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
    writer.close()

async def worker():
    if sys.argv[1] == "immortal":
        import ctypes
        ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG: off, so that the channel's end alone tells
        os.close(inside.ticket.leash[0])
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    say("worker", os.getpid(), os.getppid(), server.sockets[0].getsockname()[1])
    await server.serve_forever()

async def primary():
    async with everycore.Cluster(orphan_grace=float(sys.argv[2])) as cluster:
        cluster.fork()
        await for_ever()

everycore.run(primary() if everycore.is_primary else worker())
"""
    )

    def start_orphan(self, start_program, tmp_path, *args):
        script = tmp_path / "orphans.py"
        script.write_text(self.ORPHANS)
        program = start_program(REAPER, str(script), *args)
        return program, *map(int, program.expect(r"worker (\d+) (\d+) (\d+)").groups())

    def test_a_worker_that_is_not_killed_with_it_leaves_with_75(self, start_program, tmp_path):
        program, worker, primary, _ = self.start_orphan(start_program, tmp_path, "immortal", "0")
        os.kill(primary, SIGKILL)
        program.expect(f"ended {primary} -9")
        program.expect(f"ended {worker} 75")
        assert program.wait() == 0

    def test_orphan_grace_lets_it_finish_its_work_and_leave_with_75(self, start_program, tmp_path):
        program, worker, primary, port = self.start_orphan(start_program, tmp_path, "mortal", "1000")
        with socket.create_connection(("127.0.0.1", port), timeout=scaled(5)) as client:
            client.sendall(b"before\n")
            assert client.recv(100) == b"before\n"
            os.kill(primary, SIGKILL)
            program.expect(f"ended {primary} -9")
            client.sendall(b"after\n")
            assert client.recv(100) == b"after\n"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=scaled(5))
        program.expect(f"ended {worker} 75")
        assert program.wait() == 0

    def test_orphan_grace_is_a_limit(self, start_program, tmp_path):
        program, worker, primary, port = self.start_orphan(start_program, tmp_path, "mortal", "0.1")
        with socket.create_connection(("127.0.0.1", port), timeout=scaled(5)) as client:
            client.sendall(b"before\n")
            assert client.recv(100) == b"before\n"
            os.kill(primary, SIGKILL)
            program.expect(f"ended {primary} -9")
            assert client.recv(100) == b""
            program.expect(f"ended {worker} 75")
        assert program.wait() == 0


#: The primary of one worker, whose program follows; it prints `port N`, and `serves PID PRIMARY`.
OUTLIVING = """
async def primary():
    async with everycore.Cluster(orphan_grace=0.5) as cluster:
        cluster.fork()
        await for_ever()

def serves():
    say("serves", os.getpid(), os.getppid())

if everycore.is_primary:
    everycore.run(primary())
else:
"""
#: A worker that no loop of everycore ends when the time is over.
ENDLESS = {
    "plain sockets": """
listener = everycore.listen(("127.0.0.1", 0))
say("port", listener.getsockname()[1])
connection, _ = listener.accept()
serves()
listener.accept()
""",
    "threads": """
listener = everycore.listen(("127.0.0.1", 0))
say("port", listener.getsockname()[1])
threading.Thread(target=lambda: [listener.accept(), serves(), threading.Event().wait()]).start()
""",
    "a blocked loop": """
async def handler(reader, writer):
    serves()
    while True:
        signal.pause()

async def main():
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    say("port", server.sockets[0].getsockname()[1])
    await server.serve_forever()

everycore.run(main())
""",
    "a loop of its own": """
async def main():
    listener = everycore.listen(("127.0.0.1", 0))
    listener.setblocking(False)
    say("port", listener.getsockname()[1])
    await asyncio.get_running_loop().sock_accept(listener)
    serves()
    await for_ever()

asyncio.run(main())
""",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_orphan_grace_is_a_limit_whatever_the_program_is(start_program, tmp_path, source):
    script = tmp_path / "orphan.py"
    script.write_text(HEAD + OUTLIVING + textwrap.indent(source, "    "))
    program = start_program(REAPER, str(script))
    port = int(program.expect(r"port (\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=scaled(5)):
        worker, primary = map(int, program.expect(r"serves (\d+) (\d+)").groups())
        os.kill(primary, SIGKILL)
        program.expect(f"ended {primary} -9")
        program.expect(f"ended {worker} ")
    assert program.wait() == 0


class TestOfAWorker:
    async def test_no_zombie_and_no_descriptor_stays_while_the_cluster_goes_on(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            await diary.until(Ready, cluster.fork())
            before, family = open_fds(), children(os.getpid())
            for _ in range(3):
                worker = cluster.fork()
                await diary.until(Ready, worker)
                worker.kill(SIGKILL)
                await within(worker.wait())
                assert open_fds() == before
                assert children(os.getpid()) == family

    async def test_its_connections_end_and_the_others_go_on(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            workers = [cluster.fork() for _ in range(2)]
            await diary.until(Ready, count=2)
            address = diary.all(Listening)[0].address
            ends = []
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x\n")
                assert await within(reader.readline()) == b"x\n"
                ends.append((reader, writer))
            workers[0].kill(SIGKILL)
            await within(workers[0].wait())
            cut = []
            for reader, writer in ends:
                writer.write(b"y\n")
                try:
                    cut.append(await within(reader.readline()) != b"y\n")
                except ConnectionResetError:
                    cut.append(True)
            assert sorted(cut) == [False, True]
            for _ in range(4):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"z\n")
                assert await within(reader.readline()) == b"z\n"
                ends.append((reader, writer))
            for _, writer in ends:
                writer.close()
            await turn(3)

    async def test_a_stopped_worker_is_passed_over_and_serves_again_when_it_goes_on(self, tmp_path):
        source = ECHO.replace("async for line in reader:", "while line := await reader.readline():").replace(
            "writer.write(line)", "writer.write(b'%d\\n' % os.getpid())"
        )
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            stopped, other = cluster.fork(), cluster.fork()
            await diary.until(Ready, count=2)
            address = diary.all(Listening)[0].address

            async def who() -> int:
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"?\n")
                line = await within(reader.readline())
                writer.close()
                await writer.wait_closed()
                return int(line)

            assert {await who() for _ in range(4)} == {stopped.pid, other.pid}
            stopped.kill(SIGSTOP)
            assert {await who() for _ in range(12)} == {other.pid}
            stopped.kill(SIGCONT)
            served: set[int] = set()

            async def ask() -> None:
                served.add(await who())

            await eventually(lambda: stopped.pid in served, ask)

    async def test_a_stopped_worker_can_be_killed(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE)), grace=0.05) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await diary.until(Online, worker)
            worker.kill(SIGSTOP)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(signal=SIGKILL)

    async def test_a_grandchild_that_holds_everything_open_does_not_hide_its_end(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("last words")
            if os.fork() == 0:  # its copies of channel, link and belts are closed, but not its stdio
                os.write(1, b"")
                signal.pause()
                os._exit(0)
            os._exit(7)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), new_group=True) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            messages = worker.messages()
            pid = worker.pid
            assert pid is not None
            assert await within(worker.wait()) == ExitStatus(code=7)
            assert (await within(anext(messages))).message == "last words"
            assert diary.names(worker)[-2:] == ["Disconnected", "Exited"]
            os.killpg(pid, SIGKILL)
