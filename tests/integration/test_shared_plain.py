"""The policy `shared` for programs that accept by themselves, and without descriptors."""

import asyncio
from collections import Counter

import pytest

from tests.kit import scaled
from tests.kit.crowds import (
    agents,
    ask,
    both_policies,
    burst,
    keep,
    one_loop,
    shared_agents,
    shared_servers,
    timed,
)
from tests.kit.traffic import Client, closing
from tests.kit.workers import PLAIN, eventually, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]

LOCAL = "127.0.0.1"


class TestPlainPrograms:
    @one_loop
    async def test_threads_that_accept(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 3) as (_, *workers):
            port = 0
            for worker in workers:
                await worker.do(PLAIN)
                port = await worker.get("serve_plainly(port)", port=port)
            tally: Counter[int] = Counter()
            await burst((LOCAL, port), 200, tally)
            assert tally.total() == 200

    async def test_beside_asyncio_workers(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, plain, looped):
            await plain.do(PLAIN)
            port = await plain.get("serve_plainly()")
            await looped.serve(port)
            async with closing([]) as clients:
                answered = set()
                for _ in range(10):
                    answered |= set(await keep((LOCAL, port), 20, clients, at_once=20))
                assert answered == {plain.id, looped.id}

    @one_loop
    async def test_its_blocking_mode_is_its_own(self, tmp_path, loop):
        """The file is shared, and so is O_NONBLOCK; one program's mode must not affect another."""
        async with shared_agents(tmp_path, loop, 3) as (_, blocking, timed_out, impatient):
            port = 0
            for worker in (blocking, timed_out, impatient):
                await worker.do("listener = everycore.listen(('127.0.0.1', port))", port=port)
                port = await worker.get("listener.getsockname()[1]")
            modes = "[listener.gettimeout(), listener.getblocking()]"
            assert await blocking.get(modes) == [None, True]
            await timed_out.do("listener.settimeout(0.05)")
            await impatient.do("listener.setblocking(False)")
            assert await blocking.get(modes) == [None, True]
            assert await timed_out.get(modes) == [0.05, True]
            assert await impatient.get(modes) == [0.0, False]
            assert "BlockingIOError" in (await impatient.fails("listener.accept()")).classes
            assert "TimeoutError" in (await timed_out.fails("listener.accept()")).classes
            # The blocking one waits for a client, whatever the others have done.
            await blocking.do(
                """
taken = []
def take():
    conn, peer = listener.accept()
    with conn:
        taken.append((peer, conn.gettimeout()))
        conn.sendall(b"%d\\n" % ID)
thread = threading.Thread(target=take)
thread.start()
"""
            )
            await impatient.do("listener.setblocking(True)")
            await impatient.do("listener.setblocking(False)")
            await timed_out.do("listener.close()")
            assert await blocking.get("[thread.is_alive(), taken]") == [True, []]
            client = await Client.connect((LOCAL, port))
            assert client.worker == blocking.id
            await blocking.do("thread.join()")
            name = list(client.writer.get_extra_info("sockname"))
            assert await blocking.get("taken") == [[name, None]]
            await client.close()

    @one_loop
    async def test_socket_setdefaulttimeout_is_honoured(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop) as (_, worker):
            await worker.do(
                """
socket.setdefaulttimeout(0.05)
try:
    listener = everycore.listen(("127.0.0.1", 0))
finally:
    socket.setdefaulttimeout(None)
"""
            )
            assert await worker.get("listener.gettimeout()") == 0.05
            assert "TimeoutError" in (await worker.fails("listener.accept()")).classes

    @one_loop
    async def test_shutdown_and_listen_do_not_reach_the_others(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            port = await one.serve()
            await two.do(
                """
listener = everycore.listen(("127.0.0.1", port))
listener.listen(1)
listener.shutdown(socket.SHUT_RDWR)
listener.close()
""",
                port=port,
            )
            assert {await ask((LOCAL, port)) for _ in range(5)} == {one.id}

    @one_loop
    async def test_duplicates_and_their_ends(self, tmp_path, loop):
        async with shared_agents(tmp_path, loop, 2) as (cluster, one, _):
            await one.do("listener = everycore.listen(('127.0.0.1', 0)); copy = listener.dup()")
            port = await one.get("copy.getsockname()[1]")
            await one.do("listener.close()")
            assert cluster.snapshot().listeners[0].workers == (one.id,)
            client = await Client.open((LOCAL, port))
            await one.do("conn, _ = copy.accept(); conn.sendall(b'%d\\n' % ID); conn.close()")
            assert await client.greeting() == one.id
            await client.close()
            await one.do("copy.close()")
            await eventually(lambda: not cluster.snapshot().listeners, lambda: one.get("0"))

    @one_loop
    async def test_a_server_of_the_library(self, tmp_path, loop):
        """`socketserver` selects, then accepts: one that went elsewhere meanwhile does not stop it."""
        source = """
class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"%d\\n" % ID)

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    def __init__(self, sock):
        socketserver.BaseServer.__init__(self, sock.getsockname(), Hello)
        self.socket = sock

server = Server(everycore.listen(("127.0.0.1", port)))
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
        async with shared_agents(tmp_path, loop, 2) as (_, one, two):
            await one.do(source, port=0)
            address = (LOCAL, await one.get("server.socket.getsockname()[1]"))
            await two.do(source, port=address[1])
            tally: Counter[int] = Counter()
            for _ in range(5):
                await within(burst(address, 40, tally))
            assert tally.total() == 200


class TestShortOfDescriptors:
    FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""
    HOARD = f"""{FEW}
hoard = []
try:
    while True:
        hoard.append(os.dup(2))
except OSError:
    pass
"""

    @both_policies
    async def test_a_reserve_keeps_everybody_from_being_lost(self, tmp_path, policy, loop):
        """Connections handed over could be lost: so a worker says *full* while it has descriptors left."""
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (_, one, two):
            await one.do(self.FEW)  # before it listens: a program sets its limit when it begins
            address = (LOCAL, await one.serve())
            await two.serve(address[1])
            await one.do(self.HOARD)
            for _ in range(14):
                await one.do("os.close(hoard.pop())")
            async with closing([]) as clients:
                answered = await keep(address, 60, clients)
                assert answered.count(one.id) <= 14
                await one.do("os.close(os.dup(2))")  # it has still some
            await one.do("for fd in hoard: os.close(fd)\nhoard.clear()")
            async with closing([]) as clients:
                again: set[int] = set()
                while one.id not in again:
                    again |= set(await keep(address, 10, clients))

    async def test_others_answer_and_no_client_hangs(self, tmp_path, loop):
        """A worker without descriptors is woken for a connection it cannot accept: others must be woken."""
        async with shared_servers(tmp_path, loop, 2) as (_, (one, two), address):
            await one.do(self.HOARD)
            answers = [await timed(address) for _ in range(10)]
            assert {worker for worker, _ in answers} == {two.id}
            assert max(seconds for _, seconds in answers) < scaled(1.0)
            assert set(await within(burst(address, 40))) == {two.id}
            await one.do("for fd in hoard: os.close(fd)\nhoard.clear()")
            async with closing([]) as clients:
                answered: set[int] = set()
                while one.id not in answered:
                    answered |= set(await keep(address, 10, clients))

    async def test_the_only_one_serves_again_when_it_has_some(self, tmp_path, loop):
        async with shared_servers(tmp_path, loop, 1) as (_, (one,), address):
            await one.do(self.HOARD)
            waiting = [asyncio.create_task(ask(address)) for _ in range(20)]
            client = await Client.open(address)
            await one.get("0")
            assert not any(task.done() for task in waiting)
            await one.do("for fd in hoard: os.close(fd)\nhoard.clear()")
            assert await within(asyncio.gather(*waiting)) == [one.id] * 20
            assert await client.greeting() == one.id
            await client.close()

    async def test_it_does_not_take_its_last_descriptors(self, tmp_path, loop):
        """With few left it stays out of the queue, so that its program can still open a file."""
        async with agents(tmp_path, 1, policy="shared", loop=loop) as (_, one):
            await one.do(self.FEW)
            address = (LOCAL, await one.serve())
            await one.do(self.HOARD)
            for _ in range(36):
                await one.do("os.close(hoard.pop())")
            opened = [await Client.open(address) for _ in range(60)]
            async with closing(opened):
                answered = [asyncio.create_task(client.greeting()) for client in opened]
                await one.do("while inside.connections.open < 10: await asyncio.sleep(0)")
                await one.do("open('/dev/null').close()")
                assert not all(task.done() for task in answered)
                # As some leave, others are let in.
                for task, client in zip(answered, opened, strict=True):
                    await within(task)
                    await client.close()
                    await one.do("open('/dev/null').close()")
