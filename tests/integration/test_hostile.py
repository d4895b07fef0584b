"""A worker that breaks the protocol loses its own channel, and nobody else loses anything.

It leaves with status 75 when its loop sees the end of the channel, and is killed after a second if it does
not; its exit is not voluntary.
"""

import asyncio
import time
from signal import SIGKILL

import pytest

from everycore import Cluster, Exited, ExitStatus, Listening, Message, Ready, Settings, Worker
from everycore.core.frames import NOTE, WIRE, encode_frame
from everycore.core.wire import LINK_NUMBER, VERSION
from tests.integration.workers import HEAD, Diary, within, worker_script
from tests.kit import open_fds, scaled

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: Keeps the numbers of its sockets and joins like any worker. `raw` is its channel, `frame(...)` a frame.
HOSTILE = (
    """\
import json, os, select
ticket = json.loads(os.environ["_EVERYCORE_WORKER"])
"""
    + HEAD
    + f"""
import array, msgspec

raw = socket.socket(fileno=os.dup(ticket["channel"][0]))
raw_link = socket.socket(fileno=os.dup(ticket["link"][0]))

def outlive():
    try:
        poll = select.poll()
        poll.register(raw_link, select.POLLIN)
        poll.poll(30_000)
    finally:
        os._exit(0)


def body(*message):
    return msgspec.msgpack.encode(list(message))

def frame(*message, fds=0):
    return pack({WIRE}, body(*message), fds)

def pack(kind, data, fds=0):
    return struct.pack("<IBBB", len(data), {VERSION}, kind, fds) + data

def send(data, fds=(), sock=None):
    sock = sock or raw
    sock.setblocking(True)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)
    sock.setblocking(False)

def pipes(count):
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]

def note(value, fds=0):
    return pack({NOTE}, msgspec.msgpack.encode(value), fds)

def belt():
    '''A listener, and the worker's end of its belt.'''
    listener = everycore.listen(("127.0.0.1", 0))
    return listener, socket.socket(fileno=os.dup(listener._voice().fileno()))

def twin(listener):
    '''The primary's end of that belt: what is written there the primary may read as its own.'''
    return socket.socket(fileno=os.dup(listener._twin.fileno()))

NOT_UTF8 = b"\\xa1\\xff"
DEEP = b"\\x91" * 4000 + b"\\xc0"

def link_request(name, field):
    '''Its bytes; `field` is encoded already.'''
    return b"\\x92" + msgspec.msgpack.encode(name) + field

def give_back(number, peer):
    '''Its bytes; `peer` is encoded already.'''
    return b"\\x93" + msgspec.msgpack.encode("GiveBack") + msgspec.msgpack.encode(number) + peer
"""
)

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

CRIMES = {
    "random bytes": "send(bytes(range(1, 256)))",
    "another version": "send(struct.pack('<IBBB', 1, 99, 0, 0) + b'x')",
    "oversized": "send(struct.pack('<IBBB', 2**31, VERSION, 0, 0))",
    "truncated": "send(note('cut')[:-2]); raw.shutdown(socket.SHUT_WR)",
    "truncated header": "send(b'\\x05\\x00'); raw.shutdown(socket.SHUT_WR)",
    "empty body": "send(pack(0, b''))",
    "no msgpack": "send(pack(0, b'\\xc1\\xc1\\xc1'))",
    "unknown kind": "send(pack(9, b'x'))",
    "a note as an order": "send(frame('Note', b'x'))",
    "unknown type": "send(frame('Surrender', 1))",
    "the primary's own": "send(frame('Disconnect', 1.0))",
    "a field missing": "send(frame('Ask', 1))",
    "a field of another type": "send(frame('Took', 'x', 5))",
    "second Joined": "send(frame('Joined', os.getpid()))",
    "1 declared, 253 carried": "send(note('x', fds=1), pipes(253))",
    "1 declared, none carried": "send(note('x', fds=1))",
    "none declared, 1 carried": "send(note('x'), pipes(1))",
    "253 declared and carried": "send(note('x', fds=253), pipes(253))",
    "two with a note": "send(note('x', fds=2), pipes(2))",
    "one with an order": "send(frame('Attached', fds=1), pipes(1))",
    "in the middle of a frame": "data = note('x' * 100); send(data[:50]); send(data[50:], pipes(1))",
    "more taken than sent": "send(frame('Took', 5, 5))",
    "an answer to no request": "send(frame('Answer', 77, b''))",
    "more than the window": "send(note('x') * 1026)",
    "garbage on the link": "send(b'garbage', sock=raw_link)",
    "an unknown request on the link": f"send({LINK_NUMBER.pack(1)!r} + body('Surrender'), sock=raw_link)",
    "garbage on a belt": "l, b = belt(); send(b'garbage', sock=b)",
    "acks for what was never given": "l, b = belt(); send(body('Acked', 999), sock=b)",
    "gives back what was never given": "l, b = belt(); send(body('GiveBack', 999, None), pipes(1), sock=b)",
    "gives back nothing": "l, b = belt(); send(body('GiveBack', 1, None), sock=b)",
    "a descriptor with an ack": "l, b = belt(); send(body('Acked', 0), pipes(1), sock=b)",
    "wants none a message": "l, b = belt(); send(body('Serve', 0), sock=b)",
    "wants too many a message": "l, b = belt(); send(body('Serve', 17), sock=b)",
    "no UTF-8 on a belt": "l, b = belt(); send(give_back(1, NOT_UTF8), pipes(1), sock=b)",
    "nested too deep on a belt": "l, b = belt(); send(give_back(1, DEEP), pipes(1), sock=b)",
    "no address with what it gives back": "l, b = belt(); send(body('GiveBack', 1, {}), pipes(1), sock=b)",
    "a long address with what it gives back": (
        "l, b = belt(); send(body('GiveBack', 1, 'x' * 7000), pipes(1), sock=b)"
    ),
    "no UTF-8 on the link": (
        f"send({LINK_NUMBER.pack(1)!r} + link_request('Bind', NOT_UTF8), sock=raw_link)"
    ),
    "nested too deep on the link": (
        f"send({LINK_NUMBER.pack(1)!r} + link_request('Bind', DEEP), sock=raw_link)"
    ),
    "no UTF-8 on the channel": "send(pack(0, b'\\x92' + msgspec.msgpack.encode('Took') + NOT_UTF8))",
    "nested too deep on the channel": "send(pack(0, b'\\x92' + msgspec.msgpack.encode('Took') + DEEP))",
    "shuts down its belt": "l, b = belt(); b.shutdown(socket.SHUT_RDWR)",
    "shuts down the primary's end": "l, b = belt(); twin(l).shutdown(socket.SHUT_RDWR)",
}
POLICIES = ("round_robin", "shared")


def hostile(tmp_path, crime: str, after: str = "await for_ever()") -> str:
    source = f"""
VERSION = {VERSION}

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
    """A worker that behaves, and the proof that it still can."""

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
@pytest.mark.parametrize("crime", CRIMES)
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


#: What a worker leaves behind as it dies: the primary reads it when the worker is gone, or on its way out.
LEGACIES = {
    "garbage on its belt": "send(b'garbage', pipes(1), sock=b)",
    "no UTF-8 on its belt": "send(give_back(1, NOT_UTF8), pipes(1), sock=b)",
    "garbage on the primary's end": "send(b'garbage', pipes(1), sock=twin(l))",
    "no UTF-8 on the primary's end": (
        "send(b'\\x93' + body('Handover', 1, None)[1:-1] + b'\\x91' + NOT_UTF8, pipes(1), sock=twin(l))"
    ),
    "nested too deep on the primary's end": (
        "send(b'\\x93' + body('Handover', 1, None)[1:-1] + DEEP, pipes(1), sock=twin(l))"
    ),
    "a hand-over of its own": "send(body('Handover', 999, [['1.2.3.4', 5]]), pipes(1), sock=twin(l))",
    "a hand-over without its connection": "send(body('Handover', 999, [['1.2.3.4', 5]]), sock=twin(l))",
    "a word to rest": "send(body('Rest'), pipes(1), sock=twin(l))",
}
DEATHS = {
    "by the end of its channel": "os._exit(9)",
    # The child keeps the channel and the link open until the primary is at the end of them. It must not go on
    # in the parent's loop, whatever happens.
    "by its process alone": "os.fork() or outlive(); os._exit(9)",
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("legacy", LEGACIES)
async def test_what_it_leaves_where_the_primary_reads_keeps_nobody_from_ending(
    tmp_path, legacy, death, policy
):
    crime = f"l, b = belt(); {LEGACIES[legacy]}\n    {DEATHS[death]}"
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO)), policy=policy) as cluster:
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


@pytest.mark.parametrize("crime", ["random bytes", "second Joined", "acks for what was never given"])
async def test_one_that_does_not_leave_is_killed(tmp_path, crime):
    """Its loop is blocked: it sees nothing."""
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


async def test_one_that_announced_its_departure_and_then_misbehaves_is_not_given_its_grace(tmp_path):
    crime = "me.disconnect(); send(bytes(range(1, 256)))\n    while True:\n        signal.pause()"
    async with Cluster(Settings(exec=hostile(tmp_path, crime)), grace=1000) as cluster:
        bad = cluster.fork()
        await within(anext(bad.messages()))
        await bad.send("go")
        assert await within(bad.wait(), 2.5) == ExitStatus(signal=SIGKILL)


@pytest.mark.parametrize(
    ("ends", "status"),
    [("sys.exit(3)", 3), ("raise LookupError", 1), ("os._exit(4)", 4), ("return 5", 75)],
)
async def test_it_leaves_with_what_its_program_ends_with(tmp_path, loop_kind, ends, status):
    """75 is for a program that has nothing to say about it."""
    after = f"try:\n        await for_ever()\n    except asyncio.CancelledError:\n        {ends}"
    async with Cluster(Settings(exec=hostile(tmp_path, "send(b'garbage')", after), silent=True)) as cluster:
        bad = cluster.fork()
        await within(anext(bad.messages()))
        await bad.send("go")
        assert await within(bad.wait()) == ExitStatus(code=status)


async def test_its_last_good_words_are_heard(tmp_path):
    crime = "send(note('one') + note('two') + b'garbage')"
    async with Cluster(Settings(exec=hostile(tmp_path, crime))) as cluster:
        bad = cluster.fork()
        messages = bad.messages()
        await within(anext(messages))
        await bad.send("go")
        assert [message.message async for message in messages] == ["one", "two"]


async def test_a_value_that_is_none(tmp_path):
    """The envelope is well, what is in it is found out by who takes it."""
    async with Cluster(Settings(exec=hostile(tmp_path, "send(frame('Note', b'\\xc1'))"))) as cluster:
        diary = Diary(cluster)
        bad = cluster.fork()
        messages = bad.messages()
        await within(anext(messages))
        await bad.send("go")
        assert [message async for message in messages] == []
        assert await within(bad.wait()) == ExitStatus(code=75)
        assert not diary.all(Exited)[0].voluntary


async def test_frames_split_anywhere_are_no_crime(tmp_path):
    crime = (
        "data = note('grüße') + note([1, 2]) + note('x' * 300)\n"
        "    for at in range(len(data)):\n"
        "        send(data[at : at + 1])"
    )
    async with Cluster(Settings(exec=hostile(tmp_path, crime))) as cluster:
        bad = cluster.fork()
        messages = bad.messages()
        await within(anext(messages))
        await bad.send("go")
        got = [(await within(anext(messages))).message for _ in range(3)]
        assert got == ["grüße", [1, 2], "x" * 300]
        assert bad.is_connected()


@pytest.mark.parametrize("number", [999, 1, 0, -1])
async def test_descriptors_that_nobody_may_inject_never_reach_another_worker(tmp_path, number):
    """What is given back under a number that the worker does not have is no connection."""
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
    """Either it is held (it can't write any more) or given up; the primary holds some MiB of it at most."""
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
    """It never reads; what is reported to it is little, and what it sends is taken."""
    crime = """
    for _ in range(20):
        send(note('x' * 100) * 200)
    send(note('end'))
"""
    count = 0
    async with Cluster(Settings(exec=hostile(tmp_path, crime.strip()))) as cluster:
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


def test_the_crimes_are_written_in_the_protocol_s_own_frames():
    """`frame` of the script is `encode_frame`."""
    namespace: dict = {}
    exec(
        "import struct, msgspec\n" + HOSTILE[HOSTILE.index("def body") : HOSTILE.index("def send")], namespace
    )
    import msgspec

    assert namespace["frame"]("Attached") == encode_frame(msgspec.msgpack.encode(["Attached"]))


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
