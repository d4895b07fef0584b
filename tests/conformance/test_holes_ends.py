"""Errors of Node with the channel and at ends, which everycore must not have; see test_holes.py."""

import asyncio
import contextlib
import errno
import socket
from signal import SIGKILL, SIGSEGV, SIGUSR1

import pytest

from everycore import (
    ChannelClosed,
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Listening,
    Message,
    Online,
    Ready,
    Settings,
    State,
)
from tests.kit import turn, wait_gone
from tests.kit.crowds import both_loops, servers
from tests.kit.ends import End
from tests.kit.ports import free_port
from tests.kit.traffic import Client, closing
from tests.kit.workers import ECHO, IDLE, Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: Shuts down this worker's channel and the pipe that wakes its loop: every stream pair.
CUT_CHANNEL = """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
                sock.shutdown(socket.SHUT_RDWR)
"""


# 2, 15: events at an end


async def test_hole_02_disconnected_with_a_handle_on_its_way(tmp_path):
    """Node never emits 'disconnect' for a worker that dies before it took a handle. everycore does, and
    closes the handle.
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, "signal.pause()"))) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        await diary.until(Online, worker)
        ours, theirs = socket.socketpair()
        with ours:
            await worker.send("take this", theirs)
            worker.kill(SIGKILL)
            await within(worker.wait())
            assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]
            ours.setblocking(False)
            assert ours.recv(1) == b""


ENDS = {
    "returns": ("return", ExitStatus(code=0)),
    "exits": ("sys.exit(3)", ExitStatus(code=3)),
    "exits at once": ("os._exit(4)", ExitStatus(code=4)),
    "raises": ("raise LookupError", ExitStatus(code=1)),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ExitStatus(signal=SIGKILL)),
    "crashes": (
        "signal.signal(signal.SIGSEGV, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGSEGV)",
        ExitStatus(signal=SIGSEGV),
    ),
    "asks to leave": ("me.disconnect()", ExitStatus(code=0)),
    "is asked to leave": ("await me.send('ask me')", ExitStatus(code=0)),
    "loses its channel": (CUT_CHANNEL, ExitStatus(code=75)),
}


@pytest.mark.parametrize("how", ENDS)
async def test_hole_15_one_disconnected_and_one_exited_whatever_ended_it(tmp_path, how):
    """Node sometimes omits 'disconnect', 'exit' or 'close', and their order varies. Here it is always the
    messages, one `Disconnected`, one `Exited`.
    """
    code, status = ENDS[how]
    source = f"""
sys.stderr = open(os.devnull, "w")

async def main():
    me = everycore.current_worker()
    for number in range(3):
        await me.send(number)
        await asyncio.sleep(0)
    {code.strip()}
    await for_ever()

everycore.run(main())
"""
    seen: list[object] = []

    def hear(message: Message) -> None:
        if message.message == "ask me":
            message.worker.disconnect()
        else:
            seen.append(message.message)

    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        cluster.on(Message, hear)
        cluster.on(Disconnected, seen.append)
        cluster.on(Exited, seen.append)
        assert await within(cluster.fork().wait()) == status
        await within(cluster.wait())
    disconnected, exited = seen[3:]
    assert seen[:3] == [0, 1, 2]
    assert isinstance(disconnected, Disconnected)
    assert isinstance(exited, Exited)
    assert exited.status == status


async def test_hole_15_also_when_all_it_held_closes_at_once(tmp_path, policy):
    """The primary finds the end of the channel and of the process before, among and after the messages about
    listeners: here it reads nothing until the workers have ended.
    """
    source = """
async def main():
    me, loop = everycore.current_worker(), asyncio.get_running_loop()
    held = []
    address = ("127.0.0.1", 0)
    for _ in range(2):
        held.append(await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=address))
        held.append(await asyncio.start_server(print, *address))
    await me.send("holds all")
    await me.wait_shutdown()

everycore.run(main())
"""
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork() for _ in range(6)]
        for worker in workers:
            assert (await within(anext(worker.messages()))).message == "holds all"
            worker.disconnect()
            await turn(3)
            assert worker.pid is not None
            wait_gone([worker.pid])
        for worker in workers:
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert diary.names(worker)[-2:] == ["Disconnected", "Exited"]
        assert cluster.snapshot().listeners == ()


async def test_hole_15_the_states_at_both(tmp_path):
    """At Node's 'disconnect' a worker may be dead already, or not yet. Here it is DISCONNECTED then, although
    the primary learns of both ends and of a last message at once, and DEAD at `Exited`.
    """
    source = """
async def main():
    me = everycore.current_worker()
    await anext(me.messages())
    await me.send("last words")
    os._exit(5)

everycore.run(main())
"""
    states: list[tuple[type, State, bool]] = []
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        await diary.until(Online, worker)
        for kind in (Message, Disconnected, Exited):
            worker.on(kind, lambda event: states.append((type(event), worker.state, worker.is_dead())))
        await worker.send("go")
        assert wait_gone([worker.pid or 0]) == []  # blocks this process, the primary
        await within(worker.wait())
    assert [kind for kind, _, _ in states] == [Message, Disconnected, Exited]
    assert states[1:] == [(Disconnected, State.DISCONNECTED, False), (Exited, State.DEAD, True)]


async def test_hole_15_a_process_that_could_not_be_started(tmp_path):
    """Node emits 'error' and 'disconnect', and never 'exit'. Here `Exited` has the error."""
    async with Cluster(Settings(exec=[str(tmp_path / "nothing")])) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        status = await within(worker.wait())
        assert isinstance(status.error, FileNotFoundError)
        assert (worker.pid, status.code, status.signal) == (None, None, None)
        assert diary.names(worker) == ["Forked", "Disconnected", "Exited"]
        assert diary.all(Exited)[0].status == status
        assert len(cluster.workers) == 0


async def test_hole_12_the_entry_of_a_worker_stays_until_it_is_gone(tmp_path):
    """`worker.disconnect()` removes Node's entry from `workers` at once, while the process runs. Here it
    stays until just before `Exited`.
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork() for _ in range(2)]
        await diary.until(Online, count=2)
        ends = [End(cluster, worker) for worker in workers]
        for worker in workers:
            worker.disconnect()
        assert list(cluster.workers.values()) == workers
        await within(cluster.wait())
        assert len(cluster.workers) == 0
    for end in ends:
        end.check(ExitStatus(code=0), voluntary=True)


async def test_hole_12_waiting_for_all_in_workers_misses_none(tmp_path):
    """In Node, code that iterates `workers` after `disconnect()` finds no worker to wait for. Here it finds
    all of them, even those that end meanwhile.
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork() for _ in range(2)]
        await diary.until(Online, count=2)
        found = []
        for worker in cluster.workers.values():
            found.append(worker)
            await within(cluster.disconnect())
        assert found == workers


async def test_hole_04_cluster_disconnect_waits_for_all(tmp_path):
    """Node calls back after the first worker's end; `cluster.disconnect()` returns after the last one's."""
    async with servers(tmp_path, 2, grace=20.0) as (cluster, workers, address):
        async with closing([]) as clients:
            while {client.worker for client in clients} != {worker.id for worker in workers}:
                clients.append(await Client.connect(address))
            leaving = asyncio.create_task(cluster.disconnect())
            first, second = workers
            for client in clients:
                if client.worker == first.id:
                    await client.close()
            await within(first.worker.wait())
            for client in clients:
                if client.worker == second.id:
                    assert await client.echo() == "hello"
            assert not leaving.done()
            assert list(cluster.workers) == [second.id]
        await within(leaving)
        assert second.worker.is_dead()


# 8, 10: listen while leaving


@pytest.mark.race
@pytest.mark.parametrize("how", ["dies", "leaves"])
async def test_hole_08_a_worker_that_goes_while_it_is_bound(tmp_path, how):
    """Node's primary throws when a worker ends while its `listen` is under way. Here the primary keeps
    nothing of that worker, and the next one has the port.
    """
    source = """
async def main():
    me = everycore.current_worker()
    await anext(me.messages())
    port = int(os.environ["PORT"])
    asking = asyncio.create_task(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port))
    for _ in range(int(os.environ["TURNS"])):
        await asyncio.sleep(0)
    match os.environ["HOW"]:
        case "dies":
            os._exit(0)
        case "leaves":
            me.disconnect()
    await for_ever()

everycore.run(main())
"""
    port = free_port()
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    settings = Settings(exec=worker_script(tmp_path, source), env={"PORT": str(port)})
    async with Cluster(settings, grace=2.0) as cluster:
        diary = Diary(cluster)
        workers = [cluster.fork({"HOW": how, "TURNS": str(turns)}) for turns in (0, 1, 2, 3, 5)]
        await diary.until(Online, count=len(workers))
        for worker in workers:
            await worker.send("go")
        if how == "dies":  # this blocks: their requests are read after they have ended
            assert wait_gone([worker.pid or 0 for worker in workers]) == []
        assert [await within(worker.wait()) for worker in workers] == [ExitStatus(code=0)] * 5
        assert all(listener.workers == () for listener in cluster.snapshot().listeners)
        next_one = cluster.fork({"HOW": "", "TURNS": "0"})
        await next_one.send("go")
        assert (await diary.until(Listening, next_one)).address == (LOCAL, port)
        client = await Client.open((LOCAL, port))
        assert await client.ended() == b""
        await client.close()
        (listener,) = cluster.snapshot().listeners
        assert listener.workers == (next_one.id,)
    assert errors == []


@both_loops
@pytest.mark.parametrize("who", ["the primary", "the worker"])
async def test_hole_10_listen_after_disconnect(tmp_path, who, loop):
    """Node's primary does not answer, and the worker waits for ever. Here the worker ends: `everycore.listen`
    raises ECANCELED, `start_server` is cancelled with `main`, and neither listens.
    """
    source = f"""
async def main():
    me = everycore.current_worker()
    {"me.disconnect()" if who == "the worker" else "await me.send('ask me')"}
    await me.wait_shutdown()
    try:
        everycore.listen(("127.0.0.1", 0))
    except OSError as error:
        code = error.errno
    try:
        await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    except asyncio.CancelledError:
        sys.exit(code)

everycore.run(main(), loop={loop!r})
"""
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.1) as cluster:
        diary = Diary(cluster)
        cluster.on(Message, lambda message: message.worker.disconnect())
        assert await within(cluster.fork().wait()) == ExitStatus(code=errno.ECANCELED)
        assert diary.all(Listening) == []
        assert cluster.snapshot().listeners == ()


# 9, 11: send and kill


async def test_hole_09_nothing_sent_to_the_dead_hurts_the_primary(tmp_path):
    """An EPIPE of Node's own messages is an 'error' of the worker and, unheard, ends the primary. Here a call
    that sends raises ChannelClosed, and nothing else raises.
    """
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
        diary = Diary(cluster)
        dead, alive = cluster.fork(), cluster.fork()
        await diary.until(Ready, count=2)
        address = diary.all(Listening)[0].address
        dead.kill(SIGKILL)
        assert wait_gone([dead.pid or 0]) == []  # blocks: the primary has not noticed yet
        assert dead.is_connected()
        for _ in range(3):
            dead.send("nobody awaits this").close()
        asking = asyncio.create_task(dead.request("anyone?", timeout=None))
        with contextlib.suppress(ChannelClosed):
            await dead.send("or this")
        assert await cluster.broadcast("all") in (1, 2)
        dead.disconnect()
        dead.kill()
        with pytest.raises(ChannelClosed):
            await within(asking)
        assert await within(dead.wait()) == ExitStatus(signal=SIGKILL)
        with pytest.raises(ChannelClosed):
            await dead.send("too late")
        client = await Client.open(address)
        assert await client.echo() == "hello"
        await client.close()
        assert alive.is_connected()
    assert errors == []


@pytest.mark.parametrize(
    ("call", "status", "voluntary"),
    [
        ("me.kill(signal.SIGUSR1)", ExitStatus(signal=SIGUSR1), False),
        ("me.kill(signal.SIGKILL)", ExitStatus(signal=SIGKILL), False),
        ("me.kill()", ExitStatus(code=0), True),
        ("me.send_nowait('kill me')", ExitStatus(code=0), True),
    ],
    ids=["USR1", "KILL", "TERM", "TERM of the primary"],
)
async def test_hole_11_kill(tmp_path, call, status, voluntary):
    """`kill(signal)` in Node's worker ignores the signal and is voluntary; the primary's `kill()` is not.
    Here both send that signal. Only SIGTERM is a request: a worker that leaves by it leaves voluntarily.
    """
    source = f"""
async def main():
    me = everycore.current_worker()
    {call}
    await for_ever()

everycore.run(main())
"""
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        cluster.on(Message, lambda message: message.worker.kill())
        worker = cluster.fork()
        end = End(cluster, worker)
        await within(worker.wait())
    end.check(status, voluntary=voluntary)
