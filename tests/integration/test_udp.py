"""Datagrams: a bound endpoint belongs to the primary, and workers share it; others are a worker's own."""

import asyncio
import errno
import os
import signal
import socket
from collections import Counter

import pytest

from everycore import Listening
from tests.kit import open_fds
from tests.kit.crowds import agents, both_loops, each_once
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: `await bind(...)`: an endpoint that answers each datagram with its worker's id; returns its address.
ANSWER = """
class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, peer):
        self.transport.sendto(b"%d %s" % (ID, data), peer)
    def connection_lost(self, error):
        self.lost.set_result(None)

async def bind(local=None, **options):
    global endpoint, protocol
    if local is not None:
        options["local_addr"] = tuple(local) if isinstance(local, list) else local
    loop = asyncio.get_running_loop()
    endpoint, protocol = await loop.create_datagram_endpoint(Answer, **options)
    return endpoint.get_extra_info("sockname")
"""


class Asker(asyncio.DatagramProtocol):
    """A client with its own socket."""

    transport: asyncio.DatagramTransport

    def __init__(self):
        self.answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def datagram_received(self, data, addr):
        worker, _, text = data.partition(b" ")
        self.answers.put_nowait((int(worker), text))

    async def ask(self, address, text=b"?"):
        """The worker that answered a datagram to `address`."""
        self.transport.sendto(text, tuple(address))
        worker, echo = await within(self.answers.get())
        assert echo == text
        return worker

    @classmethod
    async def open(cls, host=LOCAL):
        self = cls()
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
        return self


@pytest.fixture
def answering(tmp_path):
    """Agents that have run ANSWER."""

    async def prepared(workers):
        for worker in workers:
            await worker.do(ANSWER)

    return prepared


async def only_when_the_other_stands_still(asker, address, workers):
    """A free worker is reached: there is one socket, and the kernel gives a datagram to one reader."""
    for worker in workers:
        others = [other for other in workers if other is not worker]
        assert len(others) == 1
        async with others[0].standing_still():
            assert [await asker.ask(address) for _ in range(5)] == [worker.id] * 5


class TestBound:
    @each_once
    async def test_any_port_is_the_same_in_every_worker(self, tmp_path, answering, policy, loop):
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (cluster, one, two):
            await answering([one, two])
            diary = Diary(cluster)
            address = await one.get("await bind(('127.0.0.1', 0))")
            assert await two.get("await bind(('127.0.0.1', 0))") == address
            assert address[1] > 0
            listening = await diary.until(Listening, count=2)
            assert listening.address == tuple(address)
            assert listening.kind is socket.SOCK_DGRAM
            assert cluster.snapshot().listeners[0].workers == (one.id, two.id)
            asker = await Asker.open()
            await only_when_the_other_stands_still(asker, address, [one, two])
            # The next one of each is the next port.
            second = await one.get("await bind(('127.0.0.1', 0))")
            assert second != address
            assert await two.get("await bind(('127.0.0.1', 0))") == second
            asker.transport.close()

    @both_loops
    async def test_a_fixed_port_is_shared_and_a_second_time_in_use(self, tmp_path, answering, loop):
        async with agents(tmp_path, 2, loop=loop) as (_, one, two):
            await answering([one, two])
            address = await one.get("await bind(('127.0.0.1', 0))")
            assert await two.get("await bind(address)", address=address) == address
            assert (await one.fails("await bind(address)", address=address)).errno == errno.EADDRINUSE
            asker = await Asker.open()
            await only_when_the_other_stands_still(asker, address, [one, two])
            asker.transport.close()

    @both_loops
    async def test_one_that_may_broadcast_is_shared_too(self, tmp_path, answering, loop):
        async with agents(tmp_path, 2, loop=loop) as (_, one, two):
            await answering([one, two])
            address = await one.get("await bind(('127.0.0.1', 0))")
            for worker in (two, one):
                if worker is one:
                    await one.do("endpoint.close()")
                shared = await worker.get("await bind(address, allow_broadcast=True)", address=address)
                assert shared == address
                broadcasts = (
                    "endpoint.get_extra_info('socket').getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)"
                )
                assert await worker.get(broadcasts) == 1

    async def test_one_of_another_process_is_in_use(self, tmp_path, answering):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((LOCAL, 0))
            async with agents(tmp_path) as (_, one):
                await answering([one])
                error = await one.fails("await bind(address)", address=list(taken.getsockname()))
                assert error.errno == errno.EADDRINUSE

    async def test_a_stream_on_the_same_port_is_another_listener(self, tmp_path, answering):
        async with agents(tmp_path) as (cluster, one):
            await answering([one])
            port = await one.serve()
            assert await one.get("await bind(('127.0.0.1', port))", port=port) == [LOCAL, port]
            kinds = Counter(listener.kind for listener in cluster.snapshot().listeners)
            assert kinds == {socket.SOCK_STREAM: 1, socket.SOCK_DGRAM: 1}

    @both_loops
    async def test_ipv6(self, tmp_path, answering, loop):
        async with agents(tmp_path, 2, loop=loop) as (_, one, two):
            await answering([one, two])
            address = await one.get("await bind(('::1', 0))")
            assert (await two.get("await bind(('::1', port))", port=address[1]))[:2] == address[:2]
            assert await one.get("endpoint.get_extra_info('socket').family == socket.AF_INET6")
            asker = await Asker.open("::1")
            await only_when_the_other_stands_still(asker, address[:2], [one, two])
            asker.transport.close()

    @pytest.mark.parametrize("loop", ["asyncio"])
    async def test_unix(self, tmp_path, answering, loop):
        path, mine = str(tmp_path / "socket"), str(tmp_path / "mine")
        async with agents(tmp_path, 2, loop=loop) as (_, one, two):
            await answering([one, two])
            for worker in (one, two):
                assert await worker.get("await bind(path, family=socket.AF_UNIX)", path=path) == path
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.bind(mine)
                client.connect(path)
                client.setblocking(False)
                running = asyncio.get_running_loop()
                client.send(b"?")
                assert await within(running.sock_recv(client, 100)) in [b"%d ?" % w.id for w in (one, two)]
        assert not os.path.lexists(path)  # noqa: ASYNC240

    async def test_a_datagram_is_received_once(self, tmp_path, answering):
        async with agents(tmp_path, 2) as (_, one, two):
            await answering([one, two])
            address = await one.get("await bind(('127.0.0.1', 0))")
            await two.get("await bind(('127.0.0.1', 0))")
            asker = await Asker.open()
            sent = [b"%d" % number for number in range(100)]
            received = []
            for start in range(0, 100, 20):
                for text in sent[start : start + 20]:
                    asker.transport.sendto(text, tuple(address))
                received += [(await within(asker.answers.get()))[1] for _ in range(20)]
            assert sorted(received) == sorted(sent)
            assert asker.answers.empty()
            asker.transport.close()


class TestTheEnd:
    @both_loops
    async def test_closing_gives_it_back(self, tmp_path, answering, loop):
        async with agents(tmp_path, 2, loop=loop) as (cluster, one, two):
            await answering([one, two])
            address = await one.get("await bind(('127.0.0.1', 0))")
            await two.get("await bind(('127.0.0.1', 0))")
            await one.do("endpoint.close(); await protocol.lost")
            asker = await Asker.open()
            assert [await asker.ask(address) for _ in range(5)] == [two.id] * 5
            await one.get("await bind(address)", address=address)
            await only_when_the_other_stands_still(asker, address, [one, two])
            for worker in (one, two):
                await worker.do("endpoint.close(); await protocol.lost")
                await worker.get("everycore.listen(('127.0.0.1', 0)).close()")  # behind the belt
            assert address not in [list(listener.address) for listener in cluster.snapshot().listeners]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(tuple(address))
            asker.transport.close()

    @both_loops
    async def test_a_worker_that_leaves_closes_it_and_the_other_goes_on(self, tmp_path, answering, loop):
        async with agents(tmp_path, 2, loop=loop) as (_, one, two):
            await answering([one, two])
            address = await one.get("await bind(('127.0.0.1', 0))")
            await two.get("await bind(('127.0.0.1', 0))")
            one.worker.disconnect()
            assert (await within(one.worker.wait())).code == 0
            asker = await Asker.open()
            assert [await asker.ask(address) for _ in range(5)] == [two.id] * 5
            asker.transport.close()

    async def test_what_came_while_no_worker_was_there_is_the_replacement_s(self, tmp_path, answering):
        async with agents(tmp_path) as (cluster, one):
            await answering([one])
            address = await one.get("await bind(('127.0.0.1', 0))")
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            asker = await Asker.open()
            asker.transport.sendto(b"early", tuple(address))
            two = type(one)(cluster.fork())
            await answering([two])
            assert await two.get("await bind(('127.0.0.1', 0))") == address
            assert await within(asker.answers.get()) == (two.id, b"early")
            asker.transport.close()

    async def test_it_leaves_no_descriptor(self, tmp_path, answering):
        async with agents(tmp_path) as (_, one):
            await answering([one])
            again = """
for _ in range(20):
    await bind(("127.0.0.1", 0))
    endpoint.close()
    await protocol.lost
    everycore.listen(("127.0.0.1", 0), kind=socket.SOCK_DGRAM).close()
"""
            await one.do(again)
            before = len(open_fds(one.worker.pid)), len(open_fds())
            await one.do(again)
            assert (len(open_fds(one.worker.pid)), len(open_fds())) == before


class TestListen:
    async def test_a_socket_of_the_primary_s_in_every_worker(self, tmp_path):
        async with agents(tmp_path, 2) as (_, one, two):
            for worker in (one, two):
                await worker.do("sock = everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_DGRAM)")
            address = await one.get("sock.getsockname()")
            assert await two.get("sock.getsockname()") == address
            assert await two.get("sock.type.name") == "SOCK_DGRAM"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(tuple(address))
                client.setblocking(False)
                for worker in (one, two):
                    client.send(b"hello")
                    await worker.do("data, peer = sock.recvfrom(100); sock.sendto(data + b' %d' % ID, peer)")
                    answer = await within(asyncio.get_running_loop().sock_recv(client, 100))
                    assert answer == b"hello %d" % worker.id

    async def test_blocking_modes_are_each_worker_s_own(self, tmp_path):
        async with agents(tmp_path, 2) as (_, one, two):
            for worker in (one, two):
                await worker.do("sock = everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_DGRAM)")
            assert await one.get("sock.gettimeout()") is None
            await two.do("sock.setblocking(False)")
            assert "BlockingIOError" in (await two.fails("sock.recv(100)")).classes
            await one.do(
                "got = []\n"
                "thread = threading.Thread(target=lambda: got.append(sock.recv(100)))\n"
                "thread.start()"
            )
            assert await one.get("[thread.is_alive(), got]") == [True, []]
            address = await two.get("sock.getsockname()")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", tuple(address))
                await within(one.do("thread.join()"))
            assert await one.get("got") == [b"x"]
            await one.do("sock.settimeout(0.02)")
            assert "TimeoutError" in (await one.fails("sock.recv(100)")).classes

    async def test_exclusive_is_this_worker_s_own(self, tmp_path):
        async with agents(tmp_path, 2) as (cluster, one, two):
            code = "sock = everycore.listen(('127.0.0.1', port), kind=socket.SOCK_DGRAM, exclusive=True)"
            await one.do(code, port=0)
            port = await one.get("sock.getsockname()[1]")
            assert (await two.fails(code, port=port)).errno == errno.EADDRINUSE
            await two.do(code, port=0)
            assert await two.get("sock.getsockname()[1]") != port
            assert not cluster.snapshot().listeners

    @both_loops
    async def test_by_the_primary_s_descriptor(self, tmp_path, answering, loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
            given.bind((LOCAL, 0))
            async with agents(tmp_path, 2, loop=loop) as (_, one, two):
                await answering([one, two])
                for worker in (one, two):
                    name = await worker.get(
                        "await bind(sock=everycore.listen(fd=fd, kind=socket.SOCK_DGRAM))", fd=given.fileno()
                    )
                    assert name == list(given.getsockname())
                asker = await Asker.open()
                await only_when_the_other_stands_still(asker, given.getsockname(), [one, two])
                asker.transport.close()

    async def test_a_descriptor_of_the_other_kind(self, tmp_path):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
            given.bind((LOCAL, 0))
            async with agents(tmp_path) as (_, one):
                error = await one.fails("everycore.listen(fd=fd)", fd=given.fileno())
                assert error.errno == errno.EPROTOTYPE
            assert given.getsockname()[1] > 0


class TestAWorkersOwn:
    #: What makes an endpoint a client's, or the program's own.
    OPTIONS = (
        "remote_addr=address",
        "family=socket.AF_INET",
        "local=('127.0.0.1', 0), remote_addr=address",
        "local=('127.0.0.1', 0), reuse_port=True",
    )

    @both_loops
    async def test_it_is_not_the_primary_s(self, tmp_path, answering, loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((LOCAL, 0))
            server.setblocking(False)
            async with agents(tmp_path, 2, loop=loop) as (cluster, one, two):
                await answering([one, two])
                diary = Diary(cluster)
                for options in self.OPTIONS:
                    peers = []
                    for worker in (one, two):
                        await worker.do("address = tuple(address)", address=list(server.getsockname()))
                        await worker.get(f"await bind({options})")
                        target = "" if "remote" in options else ", address"
                        await worker.do(f"endpoint.sendto(b'x'{target})")
                        received = asyncio.get_running_loop().sock_recvfrom(server, 100)
                        peers.append((await within(received))[1])
                    assert peers[0] != peers[1], options
                    assert not cluster.snapshot().listeners, options
                assert not diary.all(Listening)

    async def test_an_explicit_socket_is_used_as_it_is(self, tmp_path, answering):
        async with agents(tmp_path) as (cluster, one):
            await answering([one])
            await one.do("own = socket.socket(type=socket.SOCK_DGRAM); own.bind(('127.0.0.1', 0))")
            name = await one.get("await bind(sock=own)")
            assert not cluster.snapshot().listeners
            asker = await Asker.open()
            assert await asker.ask(name) == one.id
            asker.transport.close()
