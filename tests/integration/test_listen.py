"""`everycore.listen`: a listening socket for any program; the three rules; what is refused, and how."""

import contextlib
import errno
import os
import pickle
import socket
import stat
import tempfile

import pytest

import everycore
from everycore import Cluster, ConfigurationError, Listening, Settings
from tests.kit import wait_readable
from tests.kit.crowds import both_policies
from tests.kit.traffic import (
    NEVER,
    Agent,
    Client,
    Diary,
    agents,
    backlog_of,
    closing,
    first_ordinary_port,
    free_port,
    is_refused,
    listening_sockets,
    one_by_one,
    ordinary_user,
    within,
)
from tests.kit.workers import worker_script

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

# Programs without a loop of ours

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
        await worker.do("other = everycore.listen(('127.0.0.1', 0))")  # the primary has heard what was before
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
    """As any socket: with a warning, and the descriptor is closed."""
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


def test_in_a_process_that_is_no_worker_it_is_an_ordinary_socket():
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


# Rule 1: listen(fd=) is about the primary's descriptors


async def test_a_descriptor_of_the_primary_is_listened_on_by_all(tmp_path):
    with socket.socket() as bound:
        bound.bind((LOCAL, 0))
        async with agents(tmp_path, 2) as (cluster, first, second):
            diary = Diary(cluster)
            for worker in (first, second):
                await worker.listens("sock = everycore.listen(fd=fd)", fd=bound.fileno())
                await worker.do("server = await asyncio.start_server(greet, sock=sock)")
                assert tuple(await worker.get("sock.getsockname()")) == bound.getsockname()
            async with closing([await Client.connect(bound.getsockname()) for _ in range(4)]) as clients:
                assert {client.worker for client in clients} == {first.id, second.id}
            event = await diary.until(Listening)
            assert (event.address, event.fd) == (bound.getsockname(), bound.fileno())


async def test_a_unix_socket_of_the_primary(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        async with agents(tmp_path) as (_, worker):
            await worker.do("sock = everycore.listen(fd=fd)", fd=bound.fileno())
            await worker.do("server = await asyncio.start_server(greet, sock=sock)")
            assert await worker.get("[sock.family.name, sock.getsockname()]") == ["AF_UNIX", path]
            await (await Client.connect(path)).close()
    assert (tmp_path / "s").exists()  # not ours


@contextlib.contextmanager
def bad_descriptor(kind):
    """A descriptor that cannot be listened on, and the errno that says why."""
    with contextlib.ExitStack() as stack:
        match kind:
            case "closed":
                sock = socket.socket()
                fd = sock.fileno()
                sock.close()
                yield fd, errno.EBADF
            case "negative":
                yield -1, errno.EBADF
            case "huge":
                yield 2**40, errno.EBADF
            case "file":
                yield stack.enter_context(tempfile.TemporaryFile()).fileno(), errno.ENOTSOCK
            case "pipe":
                reading, writing = os.pipe()
                stack.callback(os.close, reading)
                stack.callback(os.close, writing)
                yield reading, errno.ENOTSOCK
            case "datagram":
                sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.bind((LOCAL, 0))
                yield sock.fileno(), errno.EPROTOTYPE
            case "connected":
                server = stack.enter_context(socket.create_server((LOCAL, 0)))
                sock = stack.enter_context(socket.create_connection(server.getsockname()))
                yield sock.fileno(), errno.EISCONN
            case "pair":
                one, two = socket.socketpair()
                stack.callback(two.close)
                yield stack.enter_context(one).fileno(), errno.EISCONN
            case "unbound":
                yield stack.enter_context(socket.socket()).fileno(), errno.EDESTADDRREQ
            case "unbound-unix":
                yield stack.enter_context(socket.socket(socket.AF_UNIX)).fileno(), errno.EDESTADDRREQ


BAD = [
    "closed",
    "negative",
    "huge",
    "file",
    "pipe",
    "datagram",
    "connected",
    "pair",
    "unbound",
    "unbound-unix",
]


@pytest.mark.parametrize("where", ["worker", "alone"])
async def test_a_descriptor_that_cannot_be_listened_on_is_refused_with_the_reason(tmp_path, where):
    """And nothing stays open for it: the kit would find it."""
    async with agents(tmp_path, 1 if where == "worker" else 0) as (cluster, *workers):
        for kind in BAD:
            with bad_descriptor(kind) as (fd, number):
                if where == "worker":
                    error = await workers[0].fails("everycore.listen(fd=fd)", fd=fd)
                    found, text = error.errno, error.text
                else:
                    with pytest.raises(OSError, match="descriptor") as caught:
                        everycore.listen(fd=fd)
                    found, text = caught.value.errno, str(caught.value)
                assert found == number, kind
                assert f"descriptor {fd}" in text, kind
        assert cluster.snapshot().listeners == ()


async def test_no_descriptor_of_everycores_own_can_be_listened_on(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    async with agents(tmp_path) as (_, worker):
        port = await worker.serve()
        own = sorted(map(int, set(os.listdir("/proc/self/fd")) - before))
        listeners = listening_sockets(port)
        for duplicate in listeners:
            duplicate.close()
        assert len(listeners) == 1
        refused = await worker.get(
            """[
    fd for fd in own
    for raised in [await perform(("eval", "everycore.listen(fd=%d)" % fd, {}), None)]
    if raised[0] == "raised"
]""",
            own=own,
        )
        assert refused == own
        assert await worker.get("server.is_serving()")
        await (await Client.connect((LOCAL, port))).close()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"address": (LOCAL, 0), "fd": 3},
        {"address": LOCAL + ":0", "fd": 3},
        {"fd": "3"},
        {"fd": True},
        {"fd": 3.0},
        {"address": ""},
        {"address": (LOCAL,)},
        {"address": (LOCAL, 0, 0)},
        {"address": (LOCAL, "http")},
        {"address": (LOCAL, 65536)},
        {"address": (LOCAL, -1)},
        {"address": (LOCAL, True)},
        {"address": 8000},
        {"address": (LOCAL, 0), "backlog": -1},
        {"address": (LOCAL, 0), "backlog": "many"},
        {"address": (LOCAL, 0), "backlog": 1.5},
        {"address": (LOCAL, 0), "timeout": -1},
        {"address": (LOCAL, 0), "timeout": float("nan")},
        {"address": (LOCAL, 0), "kind": "stream"},
        {"address": "/tmp/x", "mode": 0o1777},
        {"address": "/tmp/x", "mode": "rw"},
        {"address": "/tmp/x", "family": "unix"},
        {"address": "/tmp/a\0b"},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant_are_refused_at_the_call(arguments):
    with pytest.raises(ConfigurationError):
        everycore.listen(**arguments)


async def test_a_kind_that_nobody_listens_on(tmp_path):
    call = "everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_RAW)"
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:0: ") as alone:
        everycore.listen((LOCAL, 0), kind=socket.SOCK_RAW)
    assert alone.value.errno == errno.EOPNOTSUPP
    async with agents(tmp_path) as (_, worker):
        assert (await worker.fails(call)).errno == errno.EOPNOTSUPP


async def test_the_same_in_a_worker_and_it_stays_a_worker(tmp_path):
    async with agents(tmp_path) as (_, worker):
        for call in (
            "('127.0.0.1', 0), fd=3",
            "",
            "('127.0.0.1', 0), kind='stream'",
            "('127.0.0.1', 0), backlog='x'",
            "'/tmp/x', mode='rw'",
        ):
            error = await worker.fails(f"everycore.listen({call})")
            assert error.classes[0] == "ConfigurationError", call
            assert "ValueError" in error.classes
        error = await worker.fails("everycore.listen(('127.0.0.1', 0), backlog=2**31)")
        assert error.classes[0] == "OverflowError"
        error = await worker.fails("everycore.listen(('127.0.0.1', 0), kind=socket.SOCK_RAW)")
        assert "OSError" in error.classes
        await worker.do("everycore.listen(('127.0.0.1', 0)).close()")


# Rule 2 is tests/integration/test_servers.py: a socket passed explicitly is used as it is


# Rule 3: port 0, and the same listener by its real address


async def test_the_nth_port_of_every_worker_is_the_same(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.do("socks = [everycore.listen(('127.0.0.1', 0)) for _ in range(3)]")
        ports = await first.get("[sock.getsockname()[1] for sock in socks]")
        assert len(set(ports)) == 3
        assert await second.get("[sock.getsockname()[1] for sock in socks]") == ports


async def test_the_smallest_free_index_is_taken(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.do("socks = [everycore.listen(('127.0.0.1', 0)) for _ in range(3)]")
        ports = await first.get("[sock.getsockname()[1] for sock in socks]")
        await first.do("socks[1].close(); socks[0].close()")
        await first.do("again = [everycore.listen(('127.0.0.1', 0)) for _ in range(3)]")
        anew = await first.get("[sock.getsockname()[1] for sock in again]")
        assert anew[:2] == ports[:2]
        assert anew[2] not in ports


async def test_a_port_that_everybody_gave_up_is_another_one_the_next_time(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            "sock = everycore.listen(('127.0.0.1', 0)); port = sock.getsockname()[1]; sock.close()"
        )
        # The kernel might choose the same one again; not while somebody has it.
        with socket.create_server((LOCAL, await worker.get("port"))):
            assert await worker.get("everycore.listen(('127.0.0.1', 0)).getsockname()[1] != port")


@pytest.mark.parametrize(("host", "real"), [(LOCAL, LOCAL), ("::1", "::1"), ("localhost", LOCAL)])
async def test_a_port_found_by_zero_can_be_asked_for_by_number(tmp_path, host, real):
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        port = await first.serve(0, real)
        await second.do("sock = everycore.listen((host, port))", host=host, port=port)
        await second.do("server = await asyncio.start_server(greet, sock=sock)")
        async with closing([await Client.connect((real, port)) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}
        assert len(cluster.snapshot().listeners) == 1
        assert len({listening.address for listening in diary.all(Listening)}) == 1
        error = await first.fails("everycore.listen((host, port))", host=host, port=port)
        assert error.errno == errno.EADDRINUSE


async def test_a_second_listen_on_a_fixed_port_is_in_use_as_alone(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        port = free_port()
        for worker in (first, second):
            await worker.listens("sock = everycore.listen(('127.0.0.1', port))", port=port)
            error = await worker.fails("everycore.listen(('127.0.0.1', port))", port=port)
            assert error.classes[0] == "OSError"
            assert error.errno == errno.EADDRINUSE
            assert f"127.0.0.1:{port}" in error.text
        await first.do("sock.close(); sock = everycore.listen(('127.0.0.1', port))", port=port)


async def test_close_and_listen_again_while_others_serve_on(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        port = await second.serve()
        for _ in range(20):
            await first.do("sock = everycore.listen(('127.0.0.1', port)); sock.close()", port=port)
        await first.serve(port)
        async with closing(await one_by_one(cluster, [(LOCAL, port)] * 4)) as clients:
            assert [client.worker for client in clients].count(first.id) == 2
        assert len(cluster.snapshot().listeners) == 1


# Families


async def test_ipv4_and_ipv6_may_have_the_same_port(tmp_path):
    async with agents(tmp_path) as (cluster, worker):
        await worker.do("six = everycore.listen(('::', 0)); port = six.getsockname()[1]")
        port = await worker.get("port")
        await worker.do("four = everycore.listen(('0.0.0.0', port))")
        assert await worker.get("[four.family.name, six.family.name]") == ["AF_INET", "AF_INET6"]
        for name in ("four", "six"):
            await worker.do(f"server_{name} = await asyncio.start_server(greet, sock={name})")
        for host in (LOCAL, "::1"):
            await (await Client.connect((host, port))).close()
        assert len(cluster.snapshot().listeners) == 2


async def test_a_dual_stack_socket_takes_both(tmp_path):
    async with agents(tmp_path, 2) as (cluster, first, second):
        await first.do("sock = everycore.listen(('::', 0), v6only=False); port = sock.getsockname()[1]")
        port = await first.get("port")
        await second.do("sock = everycore.listen(('::', port), v6only=False)", port=port)
        for worker in (first, second):
            await worker.do("server = await asyncio.start_server(greet, sock=sock)")
        addresses = [(LOCAL, port), ("::1", port)] * 2
        async with closing(await one_by_one(cluster, addresses)) as clients:
            assert [client.worker for client in clients] == [first.id, second.id] * 2
        error = await first.fails("everycore.listen(('0.0.0.0', port))", port=port)
        assert error.errno == errno.EADDRINUSE


async def test_the_same_address_with_and_without_ipv4_is_a_conflict(tmp_path):
    async with agents(tmp_path, 2) as (_, first, second):
        await first.do("sock = everycore.listen(('::', 0), v6only=False); port = sock.getsockname()[1]")
        port = await first.get("port")
        error = await second.fails("everycore.listen(('::', port), v6only=True)", port=port)
        assert error.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["", None])
async def test_no_host_is_an_address_for_all_interfaces(tmp_path, host):
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen((host, 0), family=socket.AF_INET)", host=host)
        address, port = await worker.get("sock.getsockname()")
        assert address == "0.0.0.0"
        await worker.do("server = await asyncio.start_server(greet, sock=sock)")
        await (await Client.connect(("127.0.0.5", port))).close()


async def test_family_chooses_among_the_addresses_of_a_name(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
real = socket.getaddrinfo

def getaddrinfo(host, port, family=0, *args, **more):
    if host != "many.example":
        return real(host, port, family, *args, **more)
    hosts = {0: ("127.0.0.1", "::1"), socket.AF_INET: ("127.0.0.1",), socket.AF_INET6: ("::1",)}[family]
    return [found for one in hosts for found in real(one, port, family, *args, **more)]

socket.getaddrinfo = getaddrinfo
"""
        )
        for family, expected in ((None, LOCAL), (socket.AF_INET, LOCAL), (socket.AF_INET6, "::1")):
            code = "everycore.listen(('many.example', 0), family=family).getsockname()[0]"
            assert await worker.get(code, family=family and int(family)) == expected


# Backlog


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("sock = everycore.listen(('127.0.0.1', 0), backlog=7)", 7),
        ("sock = (await asyncio.start_server(greet, '127.0.0.1', 0, backlog=9)).sockets[0]", 9),
        (
            (
                "server = await asyncio.start_server(greet, LOCAL, 0, backlog=11, start_serving=False)\n"
                "await server.start_serving()\nsock = server.sockets[0]"
            ),
            11,
        ),
    ],
    ids=["listen", "start_server", "start_serving"],
)
async def test_the_backlog_is_the_kernels(tmp_path, call, expected):
    async with agents(tmp_path) as (_, worker):
        await worker.do(call, LOCAL=LOCAL)
        (listener,) = listening_sockets(await worker.get("sock.getsockname()[1]"))
        with listener:
            assert backlog_of(listener) == expected


# Refusals


async def test_a_port_of_another_process(tmp_path):
    with socket.create_server((LOCAL, 0)) as other:
        port = other.getsockname()[1]
        async with agents(tmp_path) as (_, worker):
            error = await worker.fails("everycore.listen(('localhost', port))", port=port)
            assert (error.classes[0], error.errno) == ("OSError", errno.EADDRINUSE)
            assert f"127.0.0.1:{port}" in error.text  # the real address, not the name
    # A failure leaves nothing: the port is free as soon as the other process is gone.
    socket.create_server((LOCAL, port)).close()


@pytest.mark.parametrize(
    ("host", "shown"), [("192.0.2.1", "192.0.2.1:0"), ("2001:db8::1", "[2001:db8::1]:0")]
)
async def test_an_address_of_another_machine(tmp_path, host, shown):
    async with agents(tmp_path) as (_, worker):
        error = await worker.fails("everycore.listen((host, 0))", host=host)
        assert (error.classes[0], error.errno) == ("OSError", errno.EADDRNOTAVAIL)
        assert shown in error.text


async def test_a_privileged_port(tmp_path):
    if first_ordinary_port() <= 81:
        pytest.skip("no port is privileged here")
    async with agents(tmp_path) as (_, worker):
        await worker.get("0")
        with ordinary_user():
            error = await worker.fails("everycore.listen(('127.0.0.1', 81))")
        assert (error.classes[0], error.errno) == ("PermissionError", errno.EACCES)
        assert "127.0.0.1:81" in error.text


async def test_a_folder_that_we_may_not_write_to(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    path = str(folder / "s")
    async with agents(tmp_path) as (_, worker):
        await worker.get("0")
        with ordinary_user():
            error = await worker.fails("everycore.listen(path)", path=path)
        assert (error.classes[0], error.errno) == ("PermissionError", errno.EACCES)
        assert path in error.text


async def test_a_host_that_resolves_to_nothing(tmp_path):
    async with agents(tmp_path) as (_, worker):
        await worker.do(
            """
def nothing(*args, **more):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

socket.getaddrinfo = nothing
"""
        )
        error = await worker.fails("everycore.listen(('nobody.example', 80))")
        assert (error.classes[0], error.errno) == ("OSError", errno.EADDRNOTAVAIL)
        assert "nobody.example:80" in error.text
        assert "not known" in error.text
        await worker.do("socket.getaddrinfo = lambda *args, **more: []")
        error = await worker.fails("everycore.listen(('nobody.example', 80))")
        assert (error.classes[0], error.errno) == ("OSError", errno.EADDRNOTAVAIL)
        assert "nobody.example:80" in error.text


async def test_a_listen_while_the_worker_leaves_is_cancelled(tmp_path):
    async with agents(tmp_path, grace=10.0) as (_, worker):
        port = await worker.serve()
        client = await Client.connect((LOCAL, port))  # it keeps the departure from ending
        await worker.do("asking = me.disconnect()")
        error = await worker.fails("everycore.listen(('127.0.0.1', 0))")
        assert error.errno == errno.ECANCELED
        await client.close()
        await within(worker.worker.wait())


# A primary that does not answer


async def test_a_silent_primary_is_given_up_after_timeout_and_nothing_is_left(tmp_path):
    """This process is the primary; it is silent as long as this test does not let its loop run."""
    async with agents(tmp_path, 2) as (cluster, worker, other):
        await worker.get("0")
        ours, theirs = socket.socketpair()
        with ours:
            await worker.do(
                """
def ask(sock):
    with sock:
        sock.setblocking(True)
        sock.recv(1)
        try:
            everycore.listen(("127.0.0.1", 0), timeout=0.05)
        except TimeoutError as error:
            sock.sendall(b"TimeoutError")

thread = threading.Thread(target=ask, args=(handle,))
thread.start()
""",
                handle=theirs,
            )
            ours.sendall(b"!")
            assert wait_readable(ours.fileno(), 10)  # blocks, and with it the primary
            assert ours.recv(100) == b"TimeoutError"
        port = await worker.serve()  # what came too late is not taken for the answer to this
        assert await other.serve() == port
        (listener,) = cluster.snapshot().listeners
        assert listener.workers == (worker.id, other.id)


# Unix paths


async def test_a_path_with_a_mode(tmp_path):
    path = tmp_path / "s"
    async with agents(tmp_path) as (_, worker):
        await worker.do("sock = everycore.listen(path, mode=0o620)", path=str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        await worker.do("server = await asyncio.start_unix_server(greet, sock=sock)")
        async with closing([await Client.connect(str(path))]) as clients:
            assert await clients[0].echo() == "hello"


async def test_a_path_is_kept_for_the_replacement_and_found_again(tmp_path):
    path = str(tmp_path / "s")
    async with agents(tmp_path, 2) as (cluster, first, second):
        for worker in (first, second):
            await worker.listens("sock = everycore.listen(path)", path=path)
        for worker in (first, second):
            worker.worker.kill(9)
            await within(worker.worker.wait())
        assert await is_refused(path)
        replacement = Agent(cluster.fork())
        await replacement.do("server = await asyncio.start_unix_server(greet, path)", path=path)
        await (await Client.connect(path)).close()
    assert not (tmp_path / "s").exists()
