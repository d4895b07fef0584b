"""`everycore.listen`: a listening socket for any program; the three rules; refusals."""

import errno
import pickle
import socket

import pytest

import everycore
from everycore import Cluster, Listening, Settings
from tests.kit.crowds import both_policies
from tests.kit.listeners import backlog_of
from tests.kit.ports import free_port
from tests.kit.traffic import NEVER, Client, agents, closing, is_refused, one_by_one
from tests.kit.workers import Diary, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"

#: Serves `sock` in a thread that blocks in accept().
SERVE_IN_THREAD = """
def serve(sock):
    def accept():
        while True:
            try:
                conn, peer = sock.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(conn,), daemon=True).start()
    def answer(conn):
        with conn:
            conn.sendall(b"%d\\n" % ID)
            conn.recv(100)
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    return thread
"""

# Programs without a loop of everycore

PROGRAMS = {
    "socketserver": """
import socketserver

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d\\n" % everycore.current_worker().id)
        self.rfile.readline()

server = socketserver.ThreadingTCPServer(("", 0), Handler, bind_and_activate=False)
server.daemon_threads = True
server.socket.close()
server.socket = everycore.listen(("127.0.0.1", port))
server.server_activate()
server.serve_forever()
""",
    "threads": """
def accept(sock):
    while True:
        conn, peer = sock.accept()
        conn.sendall(b"%d\\n" % everycore.current_worker().id)
        kept.append(conn)

kept = []
sock = everycore.listen(("127.0.0.1", port))
threads = [threading.Thread(target=accept, args=(sock,)) for _ in range(4)]
for thread in threads:
    thread.daemon = True
    thread.start()
for thread in threads:
    while thread.is_alive():
        thread.join(0.05)
""",
    "select": """
import select

sock = everycore.listen(("127.0.0.1", port))
sock.setblocking(False)
kept = []
while True:
    select.select([sock], [], [])
    try:
        conn, peer = sock.accept()
    except BlockingIOError:
        continue
    conn.sendall(b"%d\\n" % everycore.current_worker().id)
    kept.append(conn)
""",
    "selectors-until-empty": """
import selectors

sock = everycore.listen(("127.0.0.1", port))
sock.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(sock, selectors.EVENT_READ)
kept = []
while True:
    selector.select()
    while True:
        try:
            conn, peer = sock.accept()
        except BlockingIOError:
            break
        conn.sendall(b"%d\\n" % everycore.current_worker().id)
        kept.append(conn)
""",
    "another-asyncio-loop": """
async def greet(reader, writer):
    writer.write(b"%d\\n" % everycore.current_worker().id)
    await reader.readline()
    writer.close()

async def main():
    server = await asyncio.start_server(greet, sock=everycore.listen(("127.0.0.1", port)))
    await server.serve_forever()

asyncio.run(main())
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_any_server_that_takes_a_socket_is_served_in_turn(tmp_path, name):
    port = free_port()
    script = worker_script(tmp_path, f"port = {port}\n{PROGRAMS[name]}")
    async with Cluster(Settings(exec=script), grace=0.1, recall_after=NEVER) as cluster:
        diary = Diary(cluster)
        for _ in range(2):
            cluster.fork()
        await diary.until(Listening, count=2)
        async with closing([]) as clients:
            clients += await one_by_one(cluster, [(LOCAL, port)] * 8)
            order = [client.worker for client in clients]
            assert order[:2] in ([1, 2], [2, 1])
            assert order == order[:2] * 4
            waiting = [await Client.open((LOCAL, port)) for _ in range(32)]
            clients += waiting
            answers = [await client.greeting() for client in waiting]
            assert set(answers) == {1, 2}


async def test_a_worker_without_a_loop_leaves_when_its_connections_have_ended(tmp_path):
    port = free_port()
    script = worker_script(tmp_path, f"port = {port}\n{PROGRAMS['socketserver']}")
    async with Cluster(Settings(exec=script), grace=10.0) as cluster:
        diary = Diary(cluster)
        worker = cluster.fork()
        await diary.until(Listening)
        client = await Client.connect((LOCAL, port))
        worker.disconnect()
        client.writer.write(b"bye\n")
        assert await client.ended() == b""
        await client.close()
        status = await within(worker.wait())
        assert (status.code, worker.exited_voluntarily) == (0, True)


# The socket


async def test_it_looks_like_the_listener_it_stands_for(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0))")
        assert await worker.get("[type(sock).__name__, isinstance(sock, socket.socket)]") == [
            "ClusterSocket",
            True,
        ]
        assert await worker.get("[sock.family.name, sock.type.name, sock.timeout, sock.getblocking()]") == [
            "AF_INET",
            "SOCK_STREAM",
            None,
            True,
        ]
        host, port = await worker.get("sock.getsockname()")
        assert host == LOCAL
        assert port > 0
        options = ["SO_ACCEPTCONN", "SO_TYPE", "SO_DOMAIN", "SO_PROTOCOL"]
        code = f"[sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name)) for name in {options}]"
        assert await worker.get(code) == [
            1,
            socket.SOCK_STREAM,
            socket.AF_INET,
            await worker.get("sock.proto"),
        ]
        assert await worker.get("os.get_inheritable(sock.fileno())") is False
        assert str(port) in await worker.get("repr(sock)")
        await worker.do("sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)")
        await worker.do("sock.close()")
        assert "closed" in await worker.get("repr(sock)")


async def test_accept_gives_a_plain_socket_and_the_peers_address(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); address = sock.getsockname()")
        client = await Client.open(tuple(await worker.get("address")))
        await worker.do("conn, peer = await asyncio.to_thread(sock.accept)")
        mine = list(client.writer.get_extra_info("sockname"))
        assert await worker.get("[peer, conn.getpeername(), type(peer).__name__]") == [mine, mine, "tuple"]
        assert await worker.get("conn.getsockname() == address")
        assert await worker.get("type(conn) is socket.socket")
        assert await worker.get("[conn.family.name, conn.type.name, conn.getblocking(), conn.proto]") == [
            "AF_INET",
            "SOCK_STREAM",
            True,
            await worker.get("sock.proto"),
        ]
        assert await worker.get("os.get_inheritable(conn.fileno())") is False
        await worker.do("conn.sendall(b'7\\n'); conn.close()")
        assert await client.greeting() == 7
        await client.close()


async def test_accept_waits_as_long_as_it_was_told(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); address = sock.getsockname()")
        await worker.do("sock.settimeout(0.01)")
        error = await worker.fails("await asyncio.to_thread(sock.accept)")
        assert error.classes[0] == "TimeoutError"
        await worker.do("sock.setblocking(False)")
        assert (await worker.fails("sock.accept()")).classes[0] == "BlockingIOError"
        await worker.do(
            "sock.settimeout(10); accepting = asyncio.create_task(asyncio.to_thread(sock.accept))"
        )
        client = await Client.open(tuple(await worker.get("address")))
        await within(worker.do("conn, peer = await accepting"))
        assert await worker.get("conn.gettimeout()") is None
        await worker.do("conn.close()")
        assert await client.ended() == b""
        await client.close()


async def test_the_default_timeout_is_that_of_accepted_sockets(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); address = sock.getsockname()")
        client = await Client.open(tuple(await worker.get("address")))
        await worker.do(
            "socket.setdefaulttimeout(7)\nconn, peer = await asyncio.to_thread(sock.accept)\n"
            "socket.setdefaulttimeout(None)"
        )
        assert await worker.get("conn.gettimeout()") == 7
        await worker.do("conn.close()")
        await client.close()


async def test_what_one_worker_does_to_its_socket_no_other_feels(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        port = free_port()
        for worker in (first, second):
            await worker.do(SERVE_IN_THREAD)
            await worker.listens("sock = everycore.listen(('127.0.0.1', port))", port=port)
        await second.do("serve(sock)")
        await first.do(
            "sock.setblocking(False); sock.listen(1); sock.listen(); sock.shutdown(socket.SHUT_RDWR)"
        )
        assert await second.get("sock.getblocking()")
        await first.do("server = await asyncio.start_server(greet, sock=sock)")
        async with closing([await Client.connect((LOCAL, port)) for _ in range(4)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}


async def test_duplicates_share_the_listener_until_the_last_is_closed(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do(SERVE_IN_THREAD)
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); sock.settimeout(5); copy = sock.dup()")
        address = tuple(await worker.get("copy.getsockname()"))
        assert await worker.get(
            "[type(copy).__name__, copy.gettimeout(), copy.fileno() != sock.fileno()]"
        ) == [
            "ClusterSocket",
            5.0,
            True,
        ]
        await worker.do("sock.close(); serve(copy)")
        await (await Client.connect(address)).close()
        assert cluster.snapshot().listeners[0].workers == (worker.id,)
        await worker.do("copy.close()")
        assert (await worker.fails("copy.dup()")).errno == errno.EBADF
        await worker.do("everycore.listen(('127.0.0.1', 0)).close()")
        assert not any(listener.address == address for listener in cluster.snapshot().listeners)


@pytest.mark.parametrize("end", ["sock.close()", "sock.detach()", "del sock", "sock.close(); sock.close()"])
async def test_however_it_ends_the_listener_is_given_up(tmp_path, end):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); address = sock.getsockname()")
        address = tuple(await worker.get("address"))
        assert [listener.address for listener in cluster.snapshot().listeners] == [address]
        await worker.do(end)
        await worker.do(
            "other = everycore.listen(('127.0.0.1', 0))"
        )  # the primary has handled the earlier messages
        assert [
            listener.workers for listener in cluster.snapshot().listeners if listener.address == address
        ] in (
            [],
            [(worker.id,)],
        )
        assert len(cluster.snapshot().listeners) == 1  # index 0 again: nothing is left of the first
        assert await is_refused(address) == (tuple(await worker.get("other.getsockname()")) != address)


@both_policies
@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
async def test_one_that_is_dropped_leaves_no_descriptor(tmp_path, policy, kind):
    """As for any socket, there is a warning, and the descriptor is closed."""
    source = f"""
import gc, warnings
descriptors = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_{kind})
        gc.collect()
        descriptors.append(len(os.listdir("/proc/self/fd")))
"""
    async with agents(tmp_path, policy=policy) as (_, worker):
        await worker.do(source)
        assert len(set(await worker.get("descriptors"))) == 1
        assert await worker.get("[warning.category.__name__ for warning in caught][:1]") == [
            "ResourceWarning"
        ]


async def test_after_close_every_call_is_ebadf(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(('127.0.0.1', 0)); sock.close()")
        for call in ("accept()", "getsockname()", "listen()", "dup()", "getsockopt(1, 2)"):
            assert (await worker.fails(f"sock.{call}")).errno == errno.EBADF, call
        assert await worker.get("sock.fileno()") == -1


async def test_it_cannot_be_pickled(tmp_path):
    with socket.socket() as plain, pytest.raises(TypeError):
        pickle.dumps(plain)
    async with agents(tmp_path) as (_, worker):
        await worker.do("import pickle; sock = everycore.listen(('127.0.0.1', 0))")
        assert (await worker.fails("pickle.dumps(sock)")).classes[0] == "TypeError"


async def test_a_block_closes_it(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do("with everycore.listen(('127.0.0.1', 0)) as sock:\n    address = sock.getsockname()")
        assert await is_refused(tuple(await worker.get("address")))
        assert cluster.snapshot().listeners == ()


# Without a cluster, and the primary's own


def test_outside_a_worker_it_is_an_ordinary_socket():
    with everycore.listen((LOCAL, 0), backlog=7) as sock:
        assert type(sock) is socket.socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert backlog_of(sock) == 7
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{sock.getsockname()[1]}") as caught:
            everycore.listen(sock.getsockname())
        assert caught.value.errno == errno.EADDRINUSE
        with everycore.listen(fd=sock.fileno()) as again:
            assert again.getsockname() == sock.getsockname()


async def test_an_exclusive_socket_is_the_workers_own(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        await first.do("sock = everycore.listen(('127.0.0.1', 0), exclusive=True)")
        address = tuple(await first.get("sock.getsockname()"))
        assert await first.get("type(sock) is socket.socket")
        assert cluster.snapshot().listeners == ()
        for how in ("exclusive=True", "exclusive=False"):
            error = await second.fails(f"everycore.listen(('127.0.0.1', port), {how})", port=address[1])
            assert error.errno == errno.EADDRINUSE
        await second.do("sock = everycore.listen(('127.0.0.1', 0), exclusive=True)")
        assert tuple(await second.get("sock.getsockname()")) != address
        assert diary.all(Listening) == []
