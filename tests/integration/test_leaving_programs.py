"""What a worker's program does when it is asked to leave: `main`, `wait_shutdown`, a late listen, no loop."""

import asyncio
import errno
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from everycore import (
    Cluster,
    Exited,
    ExitStatus,
    Listening,
    Ready,
    Settings,
)
from tests.kit import turn
from tests.kit.workers import (
    Diary,
    EchoClient,
    eventually,
    heard,
    start,
    within,
    worker_script,
)

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: connections, servers, signals. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")


class TestMain:
    """How `main` reacts."""

    @pytest.mark.parametrize(
        ("last_words", "code"),
        [
            ("return 'ignored'", 0),
            ("raise", 0),
            ("raise SystemExit(7)", 7),
            ("sys.exit('words')", 1),
            ("raise LookupError('on purpose')", 1),
        ],
    )
    async def test_what_main_raises_or_exits_with_wins(self, tmp_path, last_words, code):
        source = f"""
        sys.stderr = open(os.devnull, "w")

        async def main():
            await everycore.current_worker().send("running")
            try:
                await for_ever()
            except asyncio.CancelledError:
                {last_words}
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=code)
            assert diary.all(Exited)[0].voluntary

    async def test_its_cleanup_is_awaited(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("running")
            try:
                await for_ever()
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)
                open("cleaned", "w").close()
        everycore.run(main())
        """
        settings = Settings(exec=worker_script(tmp_path, source), cwd=tmp_path)
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=0)
        assert (tmp_path / "cleaned").exists()

    @both_loops
    async def test_serve_forever_that_ends_by_it_does_not_cut_the_work_short(self, tmp_path):
        source = """
        async def handle(reader, writer):
            await reader.readline()
            await everycore.current_worker().send("still here")
            writer.close()

        async def main():
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            async with server:
                await server.serve_forever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            messages = worker.messages()
            address = diary.all(Listening)[0].address
            # Its accept must have happened before, or the connection might go back with the belt.
            reader, writer = await asyncio.open_connection(*address)
            given = cluster.snapshot
            await eventually(
                lambda: given().workers[0].handed_over and not given().workers[0].outstanding, turn
            )
            worker.disconnect()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            writer.write(b"go\n")
            assert (await within(anext(messages))).message == "still here"
            assert await within(reader.read()) == b""
            assert await within(worker.wait()) == ExitStatus(code=0)
            writer.close()
            await writer.wait_closed()

    async def test_a_main_that_does_not_end_is_killed_after_grace(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("running")
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await for_ever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.05) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(signal=SIGKILL)
            assert diary.all(Exited)[0].voluntary

    async def test_a_main_that_is_over_leaves_nothing_to_wait_for(self, tmp_path):
        async with Cluster(
            Settings(exec=worker_script(tmp_path, "everycore.run(asyncio.sleep(0))"))
        ) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(code=0)
        assert not diary.all(Exited)[0].voluntary


class TestWaitShutdown:
    async def test_main_returns_by_itself_and_is_not_cancelled(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            await me.send("waiting")
            try:
                await me.wait_shutdown()
                await me.wait_shutdown()  # at once
                for _ in range(50):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                sys.exit(3)
            sys.exit(5)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=5)

    @both_loops
    async def test_it_resolves_while_connections_are_open(self, tmp_path):
        source = """
        async def echo(reader, writer):
            async for line in reader:
                writer.write(b"leaving\\n" if leaving else line)
            writer.close()

        leaving = False

        async def main():
            global leaving
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await everycore.current_worker().wait_shutdown()
            leaving = True
            await everycore.current_worker().send("leaving")
            await server.wait_closed()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            client = await EchoClient.to(diary.all(Listening)[0].address)
            worker.disconnect()
            assert await heard(worker) == "leaving"
            client.writer.write(b"?\n")
            assert await within(client.reader.readline()) == b"leaving\n"
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_grace_is_the_limit_and_then_main_is_cancelled(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            await me.send("waiting")
            await me.wait_shutdown()
            try:
                await for_ever()
            except asyncio.CancelledError:
                sys.exit(6)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.05) as cluster:
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=6)

    @pytest.mark.parametrize("how", ["me.disconnect()", "me.kill()"])
    async def test_the_sender_does_not_matter(self, tmp_path, how):
        source = f"""
        async def main():
            me = everycore.current_worker()
            {how}
            await me.wait_shutdown()
            sys.exit(5)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(code=5)
        assert diary.all(Exited)[0].voluntary


@both_loops
class TestListenAfterwards:
    async def test_start_server_is_never_granted_and_listen_is_cancelled(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            await me.send("online")
            await me.wait_shutdown()
            try:
                everycore.listen(("127.0.0.1", 0))
            except OSError as error:
                os.write(2, b"")
                code = error.errno
            try:
                await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            except asyncio.CancelledError:
                sys.exit(code)
            sys.exit(1)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await heard(worker)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=errno.ECANCELED)
            assert diary.all(Listening) == []
            assert cluster.snapshot().listeners == ()

    async def test_a_cancelled_start_server_reports_nothing_and_frees_its_index(self, tmp_path):
        source = """
        async def echo(reader, writer):
            writer.close()

        async def main():
            for _ in range(3):
                starting = asyncio.create_task(asyncio.start_server(echo, "127.0.0.1", 0))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                starting.cancel()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await everycore.current_worker().send(server.sockets[0].getsockname()[1])
            await for_ever()
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            first, second = cluster.fork(), cluster.fork()
            assert await heard(first) == await heard(second)
            await diary.until(Ready, count=2)
            assert len(diary.all(Listening)) == 2
            for worker in (first, second):
                worker.disconnect()
            await within(cluster.wait())
            assert cluster.snapshot().listeners == ()


class TestWithoutALoop:
    """Programs with threads and plain sockets are asked by SIGTERM."""

    THREADS = """
    def serve(connection):
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line)
                file.flush()

    listener = everycore.listen(("127.0.0.1", 0))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
    """

    SOCKETSERVER = """
    import socketserver

    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Echo, bind_and_activate=False)
    server.socket.close()
    server.socket = everycore.listen(("127.0.0.1", 0))
    server.serve_forever()
    """

    ONE_BY_ONE = """
    listener = everycore.listen(("127.0.0.1", 0))
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line)
                file.flush()
    """

    @pytest.mark.parametrize("source", ["THREADS", "SOCKETSERVER", "ONE_BY_ONE"])
    async def test_it_stops_after_its_connection_ended(self, tmp_path, source):
        async with Cluster(Settings(exec=worker_script(tmp_path, getattr(self, source)))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            client = await EchoClient.to(diary.all(Listening)[0].address)
            worker.disconnect()
            for _ in range(3):
                await client.talk()
            assert not worker.is_dead()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert diary.names(worker) == ["Forked", "Online", "Listening", "Ready", "Disconnected", "Exited"]

    @pytest.mark.parametrize("source", ["THREADS", "SOCKETSERVER", "ONE_BY_ONE"])
    async def test_it_stops_at_once_without_a_connection(self, tmp_path, source):
        async with Cluster(Settings(exec=worker_script(tmp_path, getattr(self, source)))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            worker.disconnect()
            assert await within(worker.wait(), 2) == ExitStatus(code=0)

    async def test_it_stops_when_grace_is_over(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, self.THREADS))
        async with Cluster(settings, grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            client = await EchoClient.to(diary.all(Listening)[0].address)
            worker.disconnect()
            assert await client.ended()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_its_own_handler_of_sigterm_is_left_alone(self, tmp_path):
        source = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        listener = everycore.listen(("127.0.0.1", 0))
        listener.accept()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=4)
            assert diary.all(Exited)[0].voluntary

    async def test_listen_after_it_was_asked_raises_ecanceled(self, tmp_path):
        source = """
        asked, tell = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"x"))
        listener = everycore.listen(("127.0.0.1", 0))
        os.read(asked, 1)
        try:
            everycore.listen(("127.0.0.1", 0))
        except OSError as error:
            sys.exit(error.errno)
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            worker.disconnect()
            assert await within(worker.wait()) == ExitStatus(code=errno.ECANCELED)


class TestBeforeItsProgram:
    """A worker handles signals from its start on: Ctrl-C reaches the terminal's whole process group."""

    @pytest.mark.parametrize("number", [SIGTERM, SIGINT])
    @pytest.mark.parametrize("where", ["worker.boot", "core.wire", "worker.session"])
    async def test_a_signal_while_it_joins(self, tmp_path, number, where):
        path = tmp_path / "worker.py"
        path.write_text(f"""
import os, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "everycore.{where}":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Finder())
import everycore
raise SystemExit(everycore.run(__import__("asyncio").sleep(1000)))
""")
        async with Cluster(Settings(exec=path, silent=True)) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            assert worker.stderr is not None
            assert await within(worker.stderr.read()) == b""
            assert await within(worker.wait()) == ExitStatus(code=0)
        assert diary.all(Exited)[0].voluntary
