"""Node's tests that use `cluster` without saying so in their names."""

import asyncio
import errno
import socket

import pytest

from everycore import ChannelClosed, Cluster, ExitStatus, Listening, Settings
from tests.conformance.node import node
from tests.kit import scaled
from tests.kit.ports import free_ports
from tests.kit.traffic import Agent, agents
from tests.kit.workers import Diary, program, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


@node("test-net-listen-twice")
async def test_net_listen_twice(tmp_path, policy):
    """A server that is told to listen twice, before the primary has answered, listens once."""
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, start_serving=False)
        await asyncio.gather(server.start_serving(), server.start_serving())
        assert server.is_serving()
        again = everycore.listen(("127.0.0.1", 0))
        again.listen()
        again.listen()
        server.close()
        again.close()
        everycore.current_worker().disconnect()
        await for_ever()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        assert await within(worker.wait()) == ExitStatus(code=0)
        addresses = [event.address for event in diary.all(Listening)]
        assert len(addresses) == len(set(addresses)) == 2  # the server's, the socket's
        assert cluster.snapshot().listeners == ()


@node("test-net-listen-exclusive-random-ports")
async def test_net_listen_exclusive_random_ports(tmp_path, policy):
    """Port 0, exclusive: two workers, two ports. Not exclusive: one."""
    async with agents(tmp_path, 2, policy=policy) as (cluster, *workers):
        ports: list[int] = []
        for worker in workers:
            await worker.do("sock = everycore.listen(('127.0.0.1', 0), exclusive=True)")
            ports.append(await worker.get("sock.getsockname()[1]"))
        assert len(set(ports)) == 2
        assert min(ports) > 0
        assert cluster.snapshot().listeners == ()
        assert len({await worker.serve() for worker in workers}) == 1


@node("test-net-listen-shared-ports")
async def test_net_listen_shared_ports(tmp_path, policy):
    """Workers share a port; a port that one worker has exclusively is in use for the other."""
    async with agents(tmp_path, 2, policy=policy) as (_, first, second):
        shared = await first.serve()
        await first.do("own = everycore.listen(('127.0.0.1', 0), exclusive=True)")
        exclusive = await first.get("own.getsockname()[1]")
        assert await second.serve(shared) == shared
        error = await second.fails("everycore.listen(('127.0.0.1', port), exclusive=True)", port=exclusive)
        assert error.errno == errno.EADDRINUSE


@node("test-dgram-bind-shared-ports")
async def test_dgram_bind_shared_ports(tmp_path, policy):
    """The same for UDP: workers share any port and a fixed one, unless exclusive."""
    bind = """
loop = asyncio.get_running_loop()
endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", port))
address = endpoint.get_extra_info("sockname")
"""
    exclusive = "own = everycore.listen(('127.0.0.1', port), kind=socket.SOCK_DGRAM, exclusive=True)"
    async with agents(tmp_path, 2, policy=policy) as (cluster, first, second):
        addresses = []
        for worker in (first, second):
            await worker.do(bind, port=0)
            addresses.append(tuple(await worker.get("address")))
        assert addresses[0] == addresses[1]
        [listener] = cluster.snapshot().listeners
        assert (listener.address, listener.workers) == (addresses[0], (first.id, second.id))
        await first.do(exclusive, port=0)
        port = await first.get("own.getsockname()[1]")
        assert (await second.fails(exclusive, port=port)).errno == errno.EADDRINUSE
        # The primary cannot bind a port either that the other has for itself.
        assert (await second.fails(bind, port=port)).errno == errno.EADDRINUSE
        await first.do("own.close()")
        for worker in (first, second):
            await worker.do(bind, port=port)
        fixed = [listener for listener in cluster.snapshot().listeners if listener.address == (LOCAL, port)]
        assert [listener.workers for listener in fixed] == [(first.id, second.id)]


@pytest.mark.race
@node("test-child-process-fork-closed-channel-segfault")
async def test_child_process_fork_closed_channel_segfault(tmp_path):
    """A worker dies of the first of many handles: those on the way are closed, later ones are refused.

    How many were sent by then depends on the machine and does not matter.
    """
    source = """
    async def main():
        await anext(everycore.current_worker().messages())
        os._exit(1)

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
        worker = cluster.fork()
        ours, theirs = zip(*(socket.socketpair() for _ in range(300)), strict=True)
        sending = [worker.send({}, handle) for handle in theirs[:200]]
        for result in await within(asyncio.gather(*sending, return_exceptions=True)):
            assert result is None or isinstance(result, ChannelClosed)
        assert await within(worker.wait()) == ExitStatus(code=1)
        assert not worker.is_connected()
        for handle in theirs[200:]:
            with pytest.raises(ChannelClosed):
                await worker.send({}, handle)
            handle.sendall(b"still mine")
            handle.close()
        for number, sock in enumerate(ours):
            with sock:
                sock.settimeout(scaled(10))
                assert sock.recv(100) == (b"" if number < 200 else b"still mine")


#: A primary with two workers, which are asked to leave as soon as their programs run.
TWO_WORKERS = """
async def main():
    if everycore.is_worker:
        await everycore.current_worker().send("running")
        await for_ever()
    async with everycore.Cluster() as cluster:
        workers = [cluster.fork() for _ in range(2)]
        cluster.on(everycore.Message, lambda message: message.worker.disconnect())
        exits = cluster.events(everycore.Exited)
        for _ in workers:
            event = await anext(exits)
            say("exited", event.worker.id, event.status, event.voluntary)

everycore.run(main())
"""


@node(
    "test-inspect-support-for-node_options",
    adapted="The way to put code into every Python process by the environment is a `sitecustomize` on "
    "PYTHONPATH. It may import everycore, and starts the debugger at `base + worker.id`.",
)
def test_inspect_support_for_node_options(start_program, tmp_path):
    """The environment puts a debugger into all processes: workers start, and leave voluntarily.

    Adapted: NODE_OPTIONS=--inspect is a `sitecustomize`; it adds the worker's id to the port, as Node does.
    """
    (tmp_path / "sitecustomize.py").write_text("""
import os, socket
import everycore

port = int(os.environ["DEBUG_PORT"])
if everycore.is_worker:
    port += everycore.current_worker().id
debugger = socket.create_server(("127.0.0.1", port))
os.write(1, b"debugger at %d\\n" % port)
""")
    base = free_ports(3)
    env = {"PYTHONPATH": str(tmp_path), "DEBUG_PORT": str(base)}
    running = start_program(program(TWO_WORKERS), env=env)
    assert running.wait() == 0, running.stderr
    assert sorted(running.stdout.splitlines()) == [
        *(f"debugger at {port}" for port in range(base, base + 3)),
        "exited 1 exit status 0 True",
        "exited 2 exit status 0 True",
    ]


@node(
    "test-net-socket-constructor",
    adapted="Further pipes of `stdio` are `Settings(pass_fds=)`: descriptors of the primary that a "
    "worker has under the same numbers; `socket.socket(fileno=)` makes a socket of one.",
)
async def test_net_socket_constructor(tmp_path):
    """A worker makes sockets of three descriptors that it inherited, and reads and writes each.

    Adapted: they have the same numbers as in the primary.
    """
    async with agents(tmp_path, 0) as (cluster,):
        pairs = [socket.socketpair() for _ in range(3)]
        fds = [theirs.fileno() for _, theirs in pairs]
        cluster.setup_primary(pass_fds=fds)
        worker = Agent(cluster.fork())
        for _, theirs in pairs:
            theirs.close()
        await worker.do("sockets = [socket.socket(fileno=fd) for fd in fds]", fds=fds)
        for number, (ours, _) in enumerate(pairs):
            with ours:
                ours.settimeout(scaled(10))
                ours.sendall(b"to the worker")
                await worker.do("sock = sockets[number]; data = sock.recv(100)", number=number)
                assert await worker.get("data") == b"to the worker"
                await worker.do("sock.sendall(b'to us'); sock.close()")
                assert ours.recv(100) == b"to us"
                assert ours.recv(100) == b""


@node(
    "test-diagnostics-channel-process",
    adapted="Python's diagnostics channel is `sys.addaudithook`: each worker is a `subprocess.Popen` "
    "event. The event `Forked` tells which process it is: `event.worker.pid`.",
)
def test_diagnostics_channel_process(start_program):
    """Code that watches the processes that a program starts sees the workers.

    Adapted: it is an audit hook, which cannot be removed, so the primary is a program of its own.
    """
    source = """
started = []

def audit(event, arguments):
    if event == "subprocess.Popen":
        started.append(arguments[1])

async def main():
    if everycore.is_worker:
        assert (await anext(everycore.current_worker().messages())).message == "disconnect"
        everycore.current_worker().disconnect()
        await for_ever()
    sys.addaudithook(audit)
    forked = []
    async with everycore.Cluster() as cluster:
        cluster.on(everycore.Forked, lambda event: forked.append(event.worker.pid))
        worker = cluster.fork()
        await worker.send("disconnect")
        say("exited", await worker.wait(), worker.exited_voluntarily)
    say(len(started), sys.argv[0] in started[0], forked == [worker.pid])

everycore.run(main())
"""
    running = start_program(program(source))
    running.expect("exited exit status 0 True")
    running.expect("1 True True")
    assert running.wait() == 0


@node(
    "test-preload",
    adapted="`--require` is a `sitecustomize` on PYTHONPATH, which every interpreter imports before its"
    " program. A worker inherits it with the environment; interpreter flags are inherited too.",
)
def test_preload(start_program, tmp_path):
    """A module imported before the program runs in workers too, and can tell that it is in one.

    Adapted: it is a `sitecustomize`.
    """
    (tmp_path / "sitecustomize.py").write_text("""
import os
import everycore

os.write(1, f"preloaded {everycore.is_primary} {everycore.is_worker}\\n".encode())
if everycore.is_worker:
    os._exit(43)
""")
    source = """
async def main():
    async with everycore.Cluster() as cluster:
        say("worker terminated with", await cluster.fork().wait())

if everycore.is_primary:
    everycore.run(main())
else:
    say("not to be reached")
"""
    running = start_program(program(source), env={"PYTHONPATH": str(tmp_path)})
    assert running.wait() == 0, running.stderr
    assert running.stdout.splitlines() == [
        "preloaded True False",
        "preloaded False True",
        "worker terminated with exit status 43",
    ]
