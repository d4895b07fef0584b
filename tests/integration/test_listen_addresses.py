"""`everycore.listen` at addresses: port 0, families, backlogs, paths, refusals, a silent primary."""

import errno
import socket
import stat

import pytest

from everycore import Listening
from tests.kit import wait_readable
from tests.kit.listeners import backlog_of, listening_sockets
from tests.kit.ports import first_ordinary_port, free_port
from tests.kit.traffic import Agent, Client, agents, closing, is_refused, one_by_one
from tests.kit.trouble import ordinary_user
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

LOCAL = "127.0.0.1"


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
        # The kernel might choose the same port again, but not while it is in use.
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
    """This process is the primary: it is silent until this test lets its loop run."""
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
        port = await worker.serve()  # the late answer is not taken for the answer to this
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
