"""A worker that breaks the protocol loses its own channel, and no other loses anything.

It leaves with status 75 when its loop sees the end of the channel, and is killed after a second if it does
not; its exit is not voluntary. Every crime under every policy:
`tests/primary/test_cluster_hostile.py`, in memory.
"""

import asyncio
import time
from signal import SIGKILL

import pytest

from everycore import Cluster, Exited, ExitStatus, Listening, Message, Ready, Settings, Worker
from tests.kit import open_fds, scaled
from tests.kit.crimes import CRIMES, LEGACIES
from tests.kit.hostile import HOSTILE
from tests.kit.processes import resident
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

ECHO = """
async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
    writer.close()

async def answer(message, handle):
    return message

async def main():
    everycore.current_worker().answer(answer)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    await server.serve_forever()
everycore.run(main())
"""

POLICIES = ("round_robin", "shared")


def hostile(tmp_path, crime: str, after: str = "await for_ever()") -> str:
    source = f"""
async def main():
    me = everycore.current_worker()
    await me.send("ready")
    await anext(me.messages())
    {crime}
    {after}

everycore.run(main())
"""
    path = tmp_path / "hostile.py"
    path.write_text(HOSTILE + source)
    return str(path)


class Good:
    """An honest worker, and the proof that it still works."""

    def __init__(self, worker: Worker, address: tuple[str, int]) -> None:
        self.worker = worker
        self.address = address

    @classmethod
    async def start(cls, cluster: Cluster, diary: Diary) -> "Good":
        worker = cluster.fork()
        await diary.until(Ready, worker)
        return cls(worker, diary.all(Listening, worker)[0].address)

    async def serves(self) -> None:
        assert await within(self.worker.request("still there?", timeout=None)) == "still there?"
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(b"hello\n")
        assert await within(reader.readline()) == b"hello\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "crime", ["random bytes", "garbage on the link", "garbage on a belt", "gives back nothing"]
)
async def test_it_costs_that_worker_alone(tmp_path, crime, policy):
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO)), policy=policy) as cluster:
        diary = Diary(cluster)
        good = await Good.start(cluster, diary)
        before = open_fds()
        cluster.setup_primary(exec=hostile(tmp_path, CRIMES[crime]))
        bad = cluster.fork()
        await within(anext(bad.messages()))
        begun = time.monotonic()
        await bad.send("go")
        assert await within(bad.wait()) == ExitStatus(code=75)
        assert time.monotonic() - begun < scaled(1.5)
        assert diary.names(bad)[-2:] == ["Disconnected", "Exited"]
        assert not diary.all(Exited, bad)[0].voluntary
        await good.serves()
        assert open_fds() == before


DEATHS = {
    "by the end of its channel": "os._exit(9)",
    # The child keeps the channel and the link open until the primary has read all. It must not go on
    # in the parent's loop, whatever happens.
    "by its process alone": "os.fork() or outlive(); os._exit(9)",
}


@pytest.mark.parametrize("death", DEATHS)
async def test_what_it_leaves_where_the_primary_reads_does_not_delay_the_end(tmp_path, death):
    crime = f"l, b = belt(); {LEGACIES['garbage on its belt']}\n    {DEATHS[death]}"
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
        diary = Diary(cluster)
        good = await Good.start(cluster, diary)
        before = open_fds()
        cluster.setup_primary(exec=hostile(tmp_path, crime))
        bad = cluster.fork()
        await within(anext(bad.messages()))
        await bad.send("go")
        assert await within(bad.wait()) == ExitStatus(code=9)
        assert diary.names(bad)[-2:] == ["Disconnected", "Exited"]
        assert set(cluster.workers) == {good.worker.id}
        await good.serves()
        assert open_fds() == before


@pytest.mark.ci_only
async def test_one_that_does_not_leave_is_killed(tmp_path):
    """Its loop is blocked, and notices nothing."""
    crime = "random bytes"
    stays = "\n    while True:\n        signal.pause()"
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
        diary = Diary(cluster)
        good = await Good.start(cluster, diary)
        cluster.setup_primary(exec=hostile(tmp_path, CRIMES[crime], stays))
        bad = cluster.fork()
        await within(anext(bad.messages()))
        await bad.send("go")
        await good.serves()
        assert await within(bad.wait(), 2.5) == ExitStatus(signal=SIGKILL)
        assert not diary.all(Exited, bad)[0].voluntary
        await good.serves()


@pytest.mark.parametrize(
    ("ends", "status"),
    [("sys.exit(3)", 3), ("raise LookupError", 1), ("os._exit(4)", 4), ("return 5", 75)],
)
async def test_it_leaves_with_what_its_program_ends_with(tmp_path, loop_kind, ends, status):
    """Status 75 is for a program that sets no other one."""
    after = f"try:\n        await for_ever()\n    except asyncio.CancelledError:\n        {ends}"
    async with Cluster(Settings(exec=hostile(tmp_path, "send(b'garbage')", after), silent=True)) as cluster:
        bad = cluster.fork()
        await within(anext(bad.messages()))
        await bad.send("go")
        assert await within(bad.wait()) == ExitStatus(code=status)


@pytest.mark.parametrize("number", [999, 1, 0, -1])
async def test_injected_descriptors_never_reach_another_worker(tmp_path, number):
    """A connection given back under a number that the worker does not have does not count."""
    source = """
    import threading
    seen = []

    async def echo(reader, writer):
        writer.write(b"served\\n")
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", int(os.environ["PORT"]))
        await server.serve_forever()
    everycore.run(main())
    """
    crime = (
        "l = everycore.listen(('127.0.0.1', int(os.environ['PORT'])))\n"
        "    b = socket.socket(fileno=os.dup(l.fileno()))\n"
        "    l.accept()[0].close()\n"  # which it had, under number 1
        "    ours, theirs = socket.socketpair()\n"
        f"    send(body('GiveBack', {number}, None), [theirs.fileno()], sock=b)\n"
        "    theirs.close()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        open('received', 'wb').write(ours.recv(100)); os._exit(0)\n"
        "    ours.close(); os.waitpid(pid, 0)\n"
        "    os._exit(9)"
    )
    async with Cluster(Settings(exec=worker_script(tmp_path, source), cwd=tmp_path)) as cluster:
        diary = Diary(cluster)
        good = cluster.fork({"PORT": "0"})
        await diary.until(Ready, good)
        port = diary.all(Listening, good)[0].address[1]
        cluster.setup_primary(exec=hostile(tmp_path, crime))
        bad = cluster.fork({"PORT": str(port)})
        await within(anext(bad.messages()))
        await bad.send("go")
        await diary.until(Listening, bad)
        for _ in range(2):  # one for each of them
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await within(reader.read())
            writer.close()
        await within(bad.wait())
        assert (tmp_path / "received").read_bytes() == b""


FLOODS = {
    # what it sends, over and over
    "requests that nobody answers": "frame('Ask', 1, b'\\xa1x')",
    "listens that are refused": "frame('Listen', 1, ['127.0.0.1', 1], 2, 99, None, 1, True, None, True)",
    "messages that nobody takes": "note('x' * 1000)",
    "huge messages that nobody takes": "note('x' * 1_000_000)",
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_one_that_sends_and_never_reads_does_not_make_the_primary_grow(tmp_path, flood):
    """It is either held (it can't write any more) or given up; the primary buffers at most some MiB."""
    crime = f"""
    import select
    data = {FLOODS[flood]}
    chunk = data * max(1, 65536 // len(data))
    os.set_blocking(raw.fileno(), False)
    poller = select.poll()
    poller.register(raw, select.POLLOUT | select.POLLHUP)
    sent = 0
    rest = memoryview(chunk)
    while sent < 200 << 20:
        try:
            count = raw.send(rest)
        except BlockingIOError:
            ready = poller.poll(300)  # as long without a byte taken: held
            if not ready or ready[0][1] & select.POLLHUP:
                os._exit(9)
            continue
        except OSError:
            os._exit(9)
        sent += count
        rest = rest[count:] or memoryview(chunk)
    os._exit(10)
"""
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
        diary = Diary(cluster)
        good = await Good.start(cluster, diary)
        cluster.setup_primary(exec=hostile(tmp_path, crime.strip()))
        bad = cluster.fork()
        messages = bad.messages()
        await within(anext(messages))
        await messages.aclose()
        before = resident()
        await bad.send("go")
        exiting = asyncio.create_task(bad.wait())
        most = 0
        while not exiting.done():
            await good.serves()
            most = max(most, resident() - before)
        assert exiting.result() == ExitStatus(code=9)
        assert most < 40 << 20


async def test_one_whose_messages_are_taken_may_send_for_ever(tmp_path):
    """It never reads; little is sent to it, and what it sends is taken."""
    crime = """
    for _ in range(20):
        send(note('x' * 100) * 200)
    send(note('end'))
"""
    count = 0
    deaf = "import signal; signal.pause()"
    async with Cluster(Settings(exec=hostile(tmp_path, crime.strip(), deaf))) as cluster:
        bad = cluster.fork()
        end = asyncio.Event()

        def take(message: Message) -> None:
            nonlocal count
            count += message.message == "x" * 100
            if message.message == "end":
                end.set()

        bad.on(Message, take)
        await bad.send("go")
        await within(end.wait())
        assert count == 4000
        assert bad.is_connected()
        bad.kill(SIGKILL)
