"""Unix sockets through the primary: names of every kind, existing files, and cleaning up."""

import asyncio
import errno
import os
import signal
import socket
import stat
from contextlib import contextmanager

import pytest

from everycore import Listening, Ready
from tests.kit import scaled
from tests.kit.crowds import (
    agents,
    ask,
    both_policies,
    burst,
    each_once,
    timed,
    until_all_answer,
)
from tests.kit.traffic import Client, close_all
from tests.kit.workers import Diary, within

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

SERVE = "server = await asyncio.start_unix_server(greet, path)"


def exists(path):
    """Whether there is a file of that name, of any kind."""
    return os.path.lexists(path)


def is_same(path, before):
    """Whether it is still the file that `lstat` saw before."""
    return os.path.samestat(os.lstat(path), before)


async def serve(worker, path, code=SERVE):
    await worker.do(code, path=os.fspath(path))
    return await worker.get("server.sockets[0].getsockname()")


@contextmanager
def in_folder(path):
    """Within the block, names are relative to `path`: a client of a long path needs that."""
    before = os.open(".", os.O_PATH)
    os.chdir(path)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def long_folder(folder):
    """A folder whose own path is longer than sun_path has room for."""
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    return deep


class TestNames:
    @each_once
    async def test_all_serve_one_path_and_the_primary_removes_it(self, tmp_path, policy, loop):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (cluster, one, two):
            diary = Diary(cluster)
            assert await serve(one, path) == path
            assert await serve(two, path) == path
            assert stat.S_ISSOCK(os.lstat(path).st_mode)
            assert (await diary.until(Listening)).address == path
            await until_all_answer(path, {one.id, two.id})
            await one.do("server.close()")
            await one.get("0")
            assert {await ask(path) for _ in range(5)} == {two.id}
            assert exists(path)
            await two.do("server.close()")
            await two.get("everycore.listen(('127.0.0.1', 0)).close()")  # the link is behind the belt
            assert not exists(path)
        assert not exists(path)

    @each_once
    async def test_longer_than_the_kernel_has_room_for(self, tmp_path, policy, loop):
        folder = long_folder(tmp_path)
        path = str(folder / "socket")
        assert len(path) > 108
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (cluster, one, two):
            diary = Diary(cluster)
            assert await serve(one, path) == path
            assert await serve(two, path) == path
            assert (await diary.until(Listening)).address == path
            with in_folder(folder):
                await until_all_answer("socket", {one.id, two.id})
        assert os.listdir(folder) == []

    async def test_longer_than_can_be_helped(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            path = str(tmp_path / ("n" * 100))
            error = await worker.fails(SERVE, path=path)
            assert error.errno == errno.ENAMETOOLONG

    async def test_relative_to_the_worker_s_own_folder(self, tmp_path):
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        async with agents(tmp_path, 2) as (_, one, two):
            await one.do("os.chdir(folder)", folder=str(here))
            await two.do("os.chdir(folder)", folder=str(there))
            assert await serve(one, "socket") == str(here / "socket")
            assert await serve(two, "../here/socket") == str(here / "socket")
            await two.do("other = await asyncio.start_unix_server(greet, 'socket')")
            await until_all_answer(str(here / "socket"), {one.id, two.id})
            assert {await ask(str(there / "socket")) for _ in range(3)} == {two.id}
        assert os.listdir(here) == os.listdir(there) == []

    @pytest.mark.parametrize(
        ("name", "raw"),
        [
            pytest.param("b'bytes'", b"bytes", id="bytes"),
            pytest.param("__import__('pathlib').Path('file')", b"file", id="path-object"),
            pytest.param(repr(b"\xff\xfe"), b"\xff\xfe", id="not-utf-8"),
            pytest.param(repr("snow\u2603man"), "snow\u2603man".encode(), id="beyond-ascii"),
            pytest.param(repr("new\nline"), b"new\nline", id="unprintable"),
        ],
    )
    async def test_bytes_paths_and_odd_letters(self, tmp_path, name, raw):
        async with agents(tmp_path, 2) as (_, one, two):
            for worker in (one, two):
                await worker.do("os.chdir(folder)", folder=str(tmp_path))
                await worker.do(f"server = await asyncio.start_unix_server(greet, {name})")
            path = os.fsencode(tmp_path) + b"/" + raw
            assert stat.S_ISSOCK(os.lstat(path).st_mode)
            assert await one.get("os.fsencode(server.sockets[0].getsockname())") == path
            await until_all_answer(path, {one.id, two.id})
        assert not exists(path)

    @each_once
    async def test_abstract_names(self, tmp_path, policy, loop):
        name = f"\0everycore-test-{os.getpid()}-{policy}-{loop}"
        async with agents(tmp_path, 2, policy=policy, loop=loop) as (_, one, two):
            for worker in (one, two):
                await worker.do("server = await asyncio.start_unix_server(greet, path)", path=name)
            await until_all_answer(name, {one.id, two.id})
            await one.do("server.close()")
            await two.do("server.close()")
            await two.get("everycore.listen(('127.0.0.1', 0)).close()")
            with pytest.raises(ConnectionRefusedError):
                await Client.open(name)

    @both_policies
    async def test_everycore_listen(self, tmp_path, policy):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy) as (_, one, two):
            for worker in (one, two):
                await worker.do(
                    "sock = everycore.listen(path)\n"
                    "server = await asyncio.start_unix_server(greet, sock=sock)",
                    path=path,
                )
                assert await worker.get("[sock.getsockname(), sock.family.name]") == [path, "AF_UNIX"]
            await until_all_answer(path, {one.id, two.id})
        assert not exists(path)

    async def test_the_same_worker_twice_is_in_use(self, tmp_path):
        path = str(tmp_path / "socket")
        async with agents(tmp_path) as (_, worker):
            await serve(worker, path)
            assert (await worker.fails(SERVE, path=path)).errno == errno.EADDRINUSE
            assert (await worker.fails("everycore.listen(path)", path=path)).errno == errno.EADDRINUSE
            assert await ask(path) == worker.id

    async def test_no_folder_and_no_permission(self, tmp_path):
        async with agents(tmp_path) as (_, worker):
            assert (await worker.fails(SERVE, path=str(tmp_path / "no" / "socket"))).errno == errno.ENOENT
            (tmp_path / "file").touch()
            path = str(tmp_path / "file" / "socket")
            assert (await worker.fails(SERVE, path=path)).errno == errno.ENOTDIR


class TestPermissions:
    async def test_mode_is_the_file_s_from_its_first_moment(self, tmp_path):
        path = str(tmp_path / "socket")
        async with agents(tmp_path) as (_, worker):
            for mode in (0o600, 0o660, 0o666, 0o777):
                await worker.do("sock = everycore.listen(path, mode=mode)", path=path, mode=mode)
                assert stat.S_IMODE(os.stat(path).st_mode) == mode
                await worker.do("sock.close()")

    async def test_without_it_the_umask_decides(self, tmp_path):
        path = str(tmp_path / "socket")
        before = os.umask(0o027)
        try:
            async with agents(tmp_path) as (_, worker):
                await serve(worker, path)
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o750
                assert await worker.get("os.umask(0o027)") == 0o027
        finally:
            os.umask(before)

    async def test_the_primary_s_umask_is_as_before(self, tmp_path):
        before = os.umask(0o022)
        try:
            async with agents(tmp_path) as (_, worker):
                await worker.do("sock = everycore.listen(path, mode=0o600)", path=str(tmp_path / "socket"))
                await worker.fails("everycore.listen(path, mode=0o600)", path=str(tmp_path / "no" / "socket"))
                assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)


class TestWhatLiesThere:
    async def test_a_dead_socket_of_this_user_is_replaced(self, tmp_path):
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        async with agents(tmp_path, 2) as (_, one, two):
            await serve(one, path)
            await serve(two, path)
            assert set(await burst(path, 20)) <= {one.id, two.id}
        assert not exists(path)

    async def test_a_dead_one_behind_a_long_path(self, tmp_path):
        folder = long_folder(tmp_path)
        with in_folder(folder), socket.socket(socket.AF_UNIX) as dead:
            dead.bind("socket")
        async with agents(tmp_path) as (_, one):
            await serve(one, folder / "socket")
            with in_folder(folder):
                assert await ask("socket") == one.id

    @pytest.mark.parametrize("backlog", [10, 0])
    async def test_a_live_socket_is_left_alone(self, tmp_path, backlog):
        """Even if its backlog is full, so that a client cannot connect at once."""
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
            alive.bind(path)
            alive.listen(backlog)
            if backlog == 0:
                waiting.connect(path)
            before = os.lstat(path)
            async with agents(tmp_path) as (_, worker):
                assert (await worker.fails(SERVE, path=path)).errno == errno.EADDRINUSE
            assert is_same(path, before)

    async def test_a_live_socket_of_another_kind(self, tmp_path):
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alive:
            alive.bind(path)
            async with agents(tmp_path) as (_, worker):
                assert (await worker.fails(SERVE, path=path)).errno == errno.EADDRINUSE
            assert exists(path)

    @pytest.mark.parametrize("what", ["file", "folder", "dangling", "link", "fifo"])
    async def test_anything_else_is_left_alone(self, tmp_path, what):
        path, target = tmp_path / "socket", tmp_path / "target"
        match what:
            case "file":
                path.write_text("precious")
            case "folder":
                path.mkdir()
            case "dangling":
                path.symlink_to(target)
            case "link":
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(str(target))
                path.symlink_to(target)
            case "fifo":
                os.mkfifo(path)
        before = os.lstat(path), sorted(os.listdir(tmp_path))
        async with agents(tmp_path) as (_, worker):
            assert (await worker.fails(SERVE, path=str(path))).errno == errno.EADDRINUSE
            error = await worker.fails("everycore.listen(path)", path=str(path))
            assert error.errno == errno.EADDRINUSE
            assert str(path) in error.text
        assert is_same(path, before[0])
        assert sorted({*os.listdir(tmp_path)} - {"agent-asyncio.py"}) == before[1]
        if what == "file":
            assert path.read_text() == "precious"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    async def test_a_dead_socket_of_another_user_is_left_alone(self, tmp_path):
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        os.chown(path, 65534, 65534)
        async with agents(tmp_path) as (_, worker):
            assert (await worker.fails(SERVE, path=path)).errno == errno.EADDRINUSE
        assert exists(path)


class TestTheEnd:
    @both_policies
    async def test_the_file_stays_while_a_replacement_is_awaited_and_goes_with_the_cluster(
        self, tmp_path, policy
    ):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 1, policy=policy) as (cluster, one):
            await serve(one, path)
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            assert exists(path)
            with pytest.raises(ConnectionRefusedError):
                await Client.open(path)
            two = type(one)(cluster.fork())
            await within(serve(two, path))
            assert {await ask(path) for _ in range(3)} == {two.id}
            two.worker.kill(signal.SIGKILL)
            await within(two.worker.wait())
        assert not exists(path)

    @both_policies
    async def test_one_of_two_killed_leaves_the_file_to_the_other(self, tmp_path, policy):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy) as (_, one, two):
            await serve(one, path)
            await serve(two, path)
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            assert {await ask(path) for _ in range(5)} == {two.id}
            two.worker.disconnect()
            await within(two.worker.wait())
            assert not exists(path)

    @both_policies
    async def test_held_connections_are_answered_by_the_replacement(self, tmp_path, policy):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 1, policy=policy, when_no_worker="hold") as (cluster, one):
            await serve(one, path)
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            waiting = [await Client.open(path) for _ in range(10)]
            two = type(one)(cluster.fork())
            await within(serve(two, path))
            assert {await client.greeting() for client in waiting} == {two.id}
            await close_all(waiting)

    async def test_a_file_that_took_its_place_is_left_alone(self, tmp_path):
        path = tmp_path / "socket"
        async with agents(tmp_path) as (_, worker):
            await serve(worker, path)
            path.unlink()
            path.write_text("another's")
        assert path.read_text() == "another's"

    @each_once
    async def test_a_worker_that_is_not_ready_yet(self, tmp_path, policy, loop):
        """A unix listener cannot be suspended as a port can, and must still serve in the end."""
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy, loop=loop, when_no_worker="hold") as (
            cluster,
            one,
            two,
        ):
            diary = Diary(cluster)
            for worker in (one, two):
                await worker.do("me.hold_ready()")
                await serve(worker, path)
            client = await Client.open(path)
            await one.do("me.ready()")
            await diary.until(Ready, one.worker)
            assert await client.greeting() == one.id
            await client.close()
            assert {await ask(path) for _ in range(5)} == {one.id}
            await two.do("me.ready()")
            await diary.until(Ready, two.worker)
            await until_all_answer(path, {one.id, two.id})

    @both_policies
    async def test_refused_before_anybody_is_ready_and_served_after(self, tmp_path, policy):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy) as (cluster, one, two):
            diary = Diary(cluster)
            for worker in (one, two):
                await worker.do("me.hold_ready()")
                await serve(worker, path)
            if policy == "round_robin":
                with pytest.raises(ConnectionRefusedError):
                    await Client.open(path)
            for worker in (one, two):
                await worker.do("me.ready()")
                await diary.until(Ready, worker.worker)
            await until_all_answer(path, {one.id, two.id})
            assert (await timed(path))[1] < scaled(1.0)

    @both_policies
    async def test_refused_when_the_ready_one_dies_and_another_is_not_ready(self, tmp_path, policy):
        path = str(tmp_path / "socket")
        async with agents(tmp_path, 2, policy=policy) as (cluster, one, two):
            diary = Diary(cluster)
            await serve(one, path)
            await two.do("me.hold_ready()")
            await serve(two, path)
            assert {await ask(path) for _ in range(5)} == {one.id}
            one.worker.kill(signal.SIGKILL)
            await within(one.worker.wait())
            await two.do("me.ready()")
            await diary.until(Ready, two.worker)
            assert await ask(path) == two.id
            three = type(one)(cluster.fork())
            await within(serve(three, path))
            await until_all_answer(path, {two.id, three.id})


async def test_a_peer_may_have_a_name(tmp_path):
    path, mine = str(tmp_path / "socket"), str(tmp_path / "mine")
    async with agents(tmp_path) as (_, worker):
        await serve(worker, path, "sock = everycore.listen(path)\n" + SERVE.replace("path", "sock=sock"))
        await worker.do(
            """
async def name(reader, writer):
    writer.write(json.dumps(writer.get_extra_info("peername")).encode())
    writer.close()

other = await asyncio.start_unix_server(name, path)
""",
            path=path + "2",
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(mine)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, path + "2")
            assert (await within(loop.sock_recv(client, 1000))).decode() == f'"{mine}"'
