"""Servers of asyncio in workers, on paths of the file system and on abstract names."""

import asyncio
import errno
import os
import socket
import stat

import pytest

from everycore import Listening
from tests.kit.traffic import Client, agents, closing, one_by_one
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: The same code resolves and requests addresses on both loops: those tests use `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")


@pytest.mark.parametrize("kind", ["absolute", "relative", "long", "bytes", "path-object"])
async def test_a_unix_server_is_shared_and_its_file_goes_at_the_end(tmp_path, kind):
    folder = tmp_path
    if kind == "long":
        folder = tmp_path / ("d" * 60) / ("e" * 60)
        folder.mkdir(parents=True)
    path = folder / "the.sock"
    expression = {
        "absolute": repr(str(path)),
        "long": repr(str(path)),
        "relative": "'the.sock'",
        "bytes": repr(os.fsencode(path)),
        "path-object": f"__import__('pathlib').Path({str(path)!r})",
    }[kind]
    reach = str(path)
    if kind == "long":
        (tmp_path / "short").symlink_to(folder)
        reach = str(tmp_path / "short" / "the.sock")
    async with agents(tmp_path, 2) as (cluster, first, second):
        diary = Diary(cluster)
        for worker in (first, second):
            await worker.listens(
                f"os.chdir({str(tmp_path)!r}); server = await asyncio.start_unix_server(greet, {expression})"
            )
            assert await worker.get("server.sockets[0].getsockname()") == str(path)
        assert {listening.address for listening in diary.all(Listening)} == {str(path)}
        async with closing(await one_by_one(cluster, [reach] * 4)) as clients:
            assert [client.worker for client in clients] == [first.id, second.id] * 2
        await first.do("server.close(); await server.wait_closed()")
        assert stat.S_ISSOCK(path.stat().st_mode)
        await (await Client.connect(reach)).close()
        await second.do("server.close(); await server.wait_closed()")
        await second.get("everycore.listen(('127.0.0.1', 0)).close()")
        assert not path.exists()


async def test_an_abstract_unix_server(tmp_path):
    name = f"\0everycore-test-{os.getpid()}"
    async with agents(tmp_path, 2) as (_, first, second):
        for worker in (first, second):
            await worker.listens("server = await asyncio.start_unix_server(greet, name)", name=name)
        async with closing([await Client.connect(name) for _ in range(2)]) as clients:
            assert {client.worker for client in clients} == {first.id, second.id}


async def test_a_stale_socket_file_is_replaced(tmp_path):
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_unix_server(greet, path)", path=path)
        await (await Client.connect(path)).close()


async def test_a_living_socket_or_another_file_is_left_alone(tmp_path):
    living, ordinary = str(tmp_path / "living"), str(tmp_path / "ordinary")
    (tmp_path / "ordinary").write_text("precious")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(living)
        server.listen()
        async with agents(tmp_path) as (_, worker):
            for path in (living, ordinary):
                error = await worker.fails("await asyncio.start_unix_server(greet, path)", path=path)
                assert error.errno == errno.EADDRINUSE
                assert path in error.text
    assert (tmp_path / "ordinary").read_text() == "precious"


async def test_a_unix_path_that_cannot_be(tmp_path):
    async with agents(tmp_path) as (_, worker):
        missing = str(tmp_path / "missing" / "s")
        error = await worker.fails("await asyncio.start_unix_server(greet, path)", path=missing)
        assert (error.classes[0], error.errno) == ("FileNotFoundError", errno.ENOENT)
        assert missing in error.text


@both_loops
async def test_a_client_with_an_unreadable_name_is_served_as_any_other(tmp_path):
    """Its address is not valid text, and must stop neither the primary nor the worker."""
    path = str(tmp_path / "s")
    name = os.fsencode(tmp_path) + b"/client-\xff\xfe"
    async with agents(tmp_path) as (_, worker):
        await worker.do("server = await asyncio.start_unix_server(greet, path)", path=path)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
            sock.setblocking(False)
            await loop.sock_connect(sock, path)
            assert await within(loop.sock_recv(sock, 10)) == b"%d\n" % worker.id
        async with closing([await Client.connect(path) for _ in range(4)]):
            pass
