"""Datagrams: the primary binds what a worker asks for, and all share it, under either policy."""

import asyncio
import errno
import socket

import pytest

from everycore import Cluster, ExitStatus, Listening, Message, Settings
from tests.conformance.node import node
from tests.kit import open_fds, wait_readable
from tests.kit.ports import free_port
from tests.kit.traffic import agents, leaves
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: `await bind(...)`: an endpoint that answers each datagram with its worker's id; returns its address.
ANSWER = """
class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, peer):
        self.transport.sendto(b"%d" % ID, peer)
    def connection_lost(self, error):
        self.lost.set_result(error)

async def bind(host="127.0.0.1", port=0, **options):
    global endpoint, answer
    options = options or {"local_addr": (host, port)}
    endpoint, answer = await asyncio.get_running_loop().create_datagram_endpoint(Answer, **options)
    return endpoint.get_extra_info("sockname")

complaints = []
asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(str(context)))
"""

#: At a byte on `handle` the worker binds `port` and closes before an answer can have come; says what came.
CLOSE_EARLY = """
async def close_early(gate, port):
    with gate:
        gate.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_recv(gate, 1)
        binding = loop.create_task(bind(port=port))
        for _ in range(20):  # as many turns as it may take to ask
            await asyncio.sleep(0)
        binding.cancel()
        outcome, = await asyncio.gather(binding, return_exceptions=True)
        gate.send(type(outcome).__name__.encode())

closing = asyncio.create_task(close_early(handle, port))
"""


async def answered(address):
    """The id of the worker that answers a datagram to `address`."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(tuple(address)[:2])
        sock.send(b"?")
        return int(await within(asyncio.get_running_loop().sock_recv(sock, 100)))


async def closes_before_the_reply(worker, port):
    """This process, the primary, does not run its loop until the worker has given up."""
    ours, theirs = socket.socketpair()
    with ours:
        await worker.do(CLOSE_EARLY, handle=theirs, port=port)
        ours.send(b"!")
        assert wait_readable(ours.fileno(), 10)
        assert ours.recv(100) == b"CancelledError"
    await worker.do("await closing")
    await worker.do(
        "everycore.listen(('127.0.0.1', 0)).close()"
    )  # the primary has handled the earlier messages


@node("test-cluster-dgram-1")
async def test_cluster_dgram_1(tmp_path, policy):
    source = """
    import everycore

    class Receiver(asyncio.DatagramProtocol):
        received = 0
        def connection_made(self, transport):
            self.transport = transport
        def datagram_received(self, data, peer):
            self.received += 1
            if self.received == 10:
                self.transport.close()
                me.send_nowait(self.received)
                me.disconnect()

    async def main():
        global me
        me = everycore.current_worker()
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        await me.wait_shutdown()

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        diary = Diary(cluster)
        received: list[int] = []
        cluster.on(Message, lambda message: received.append(message.message))
        workers = [cluster.fork() for _ in range(2)]
        await diary.until(Listening, count=2)
        (address,) = {event.address for event in diary.all(Listening)}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(20):
                sock.sendto(b"hello world", address)
        assert [await within(worker.wait()) for worker in workers] == [ExitStatus(code=0)] * 2
        assert received == [10, 10]


@node("test-cluster-dgram-2")
async def test_cluster_dgram_2(tmp_path, policy):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        sock.setblocking(False)
        async with agents(tmp_path, 2, policy=policy) as (cluster, *workers):
            for worker in workers:
                await worker.do(ANSWER)
                await worker.get("await bind()")
                await worker.do(
                    "for number in range(10):\n    endpoint.sendto(b'%d %d' % (ID, number), tuple(target))",
                    target=sock.getsockname(),
                )
            came = [await within(loop.sock_recvfrom(sock, 100)) for _ in range(20)]
            assert {data for data, _ in came} == {b"%d %d" % (w.id, n) for w in workers for n in range(10)}
            (sender,) = {peer for _, peer in came}  # the one socket that they share
            assert [listener.address for listener in cluster.snapshot().listeners] == [sender]
            await within(cluster.disconnect())
            assert [await worker.worker.wait() for worker in workers] == [ExitStatus(code=0)] * 2


@node("test-cluster-dgram-ipv6only")
async def test_cluster_dgram_ipv6only(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        await worker.do(ANSWER)
        _, port, *_ = await worker.get("await bind('::')")
        assert await worker.get("await bind('0.0.0.0', port)", port=port) == ["0.0.0.0", port]
        assert {listener.family for listener in cluster.snapshot().listeners} == {
            socket.AF_INET,
            socket.AF_INET6,
        }
        for host in ("::1", LOCAL):
            assert await answered((host, port)) == worker.id


@node(
    "test-cluster-dgram-reuse",
    adapted="asyncio no longer has `reuse_address` for datagrams: the program makes the sockets "
    "itself, with SO_REUSEADDR, and passes them as `sock=`. So they are the worker's own.",
)
async def test_cluster_dgram_reuse(tmp_path, policy):
    """Through the primary a worker binds a port once, as a lone process would; by hand it may do so twice."""
    async with agents(tmp_path, policy=policy) as (_, worker):
        await worker.do(ANSWER)
        port = 0
        for _ in range(2):
            await worker.do(
                "own = socket.socket(type=socket.SOCK_DGRAM)\n"
                "own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                "own.bind(('127.0.0.1', port))",
                port=port,
            )
            _, port = await worker.get("await bind(sock=own)")
        assert await answered((LOCAL, port)) == worker.id
        await leaves(worker)


@node("test-cluster-dgram-reuseport")
async def test_cluster_dgram_reuseport(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        diary = Diary(cluster)
        await worker.do(ANSWER)
        port = 0
        for _ in range(2):
            address = await worker.get(
                "await bind(local_addr=('127.0.0.1', port), reuse_port=True)", port=port
            )
            assert port in (0, address[1])
            port = address[1]
        assert await answered((LOCAL, port)) == worker.id
        assert cluster.snapshot().listeners == ()
        await leaves(worker)
        assert diary.all(Listening) == []


@node("test-dgram-bind-socket-close-before-cluster-reply")
@pytest.mark.race
async def test_dgram_bind_socket_close_before_cluster_reply(tmp_path, capfd, policy):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOCAL, 0))
        async with agents(tmp_path, policy=policy) as (_, worker):
            await worker.do(ANSWER)
            await closes_before_the_reply(worker, taken.getsockname()[1])
            assert await answered(await worker.get("await bind()")) == worker.id
            assert await worker.get("complaints") == []
            await leaves(worker)
    assert capfd.readouterr().err == ""  # where an answer without a receiver would show


@node("test-dgram-cluster-bind-error")
async def test_dgram_cluster_bind_error(tmp_path, policy):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOCAL, 0))
        port = taken.getsockname()[1]
        async with agents(tmp_path, policy=policy) as (cluster, worker):
            await worker.do(ANSWER)
            error = await worker.fails("await bind(port=port)", port=port)
            assert (error.classes[0], error.errno) == ("OSError", errno.EADDRINUSE)
            assert f"('127.0.0.1', {port})" in error.text
            assert cluster.snapshot().listeners == ()
            taken.close()
            assert await worker.get("await bind(port=port)", port=port) == [LOCAL, port]
            assert await answered((LOCAL, port)) == worker.id


@node("test-dgram-cluster-close-during-bind")
@pytest.mark.race
async def test_dgram_cluster_close_during_bind(tmp_path, capfd, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        diary = Diary(cluster)
        await worker.do(ANSWER)
        await closes_before_the_reply(worker, free_port())  # what is made once is made now, not below
        before = len(open_fds(worker.worker.pid)), len(open_fds())
        port = free_port()
        await closes_before_the_reply(worker, port)
        assert (len(open_fds(worker.worker.pid)), len(open_fds())) == before
        assert cluster.snapshot().listeners == ()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((LOCAL, port))
        assert await worker.get("complaints") == []
        assert [event.address for event in diary.all(Listening) if event.address[1] == port] == []
    assert capfd.readouterr().err == ""


@node("test-dgram-cluster-close-in-listening")
async def test_dgram_cluster_close_in_listening(tmp_path, policy):
    async with agents(tmp_path, policy=policy) as (cluster, worker):
        await worker.do(ANSWER)
        await worker.do(
            """
class Closing(Answer):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.close()
loop = asyncio.get_running_loop()
endpoint, answer = await loop.create_datagram_endpoint(Closing, local_addr=("127.0.0.1", 0))
assert await answer.lost is None
everycore.listen(("127.0.0.1", 0)).close()  # the primary has handled the earlier messages
"""
        )
        assert cluster.snapshot().listeners == ()
        assert await worker.get("complaints") == []
        await leaves(worker)


@node(
    "test-dgram-unref-in-cluster",
    adapted="Python's loops count no references: a program ends when its `main` returns, even with an "
    "open socket.",
)
async def test_dgram_unref_in_cluster(tmp_path, policy):
    """In Node a bound socket keeps the process running until `unref()`."""
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        endpoint, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        await everycore.current_worker().send(endpoint.get_extra_info("sockname"))

    everycore.run(main())
    """
    async with Cluster(Settings(exec=worker_script(tmp_path, source)), policy=policy) as cluster:
        worker = cluster.fork()
        host, port = (await within(anext(worker.messages()))).message
        assert (host, port > 0) == (LOCAL, True)
        assert await within(worker.wait()) == ExitStatus(code=0)
