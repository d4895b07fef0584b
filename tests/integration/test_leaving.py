"""How workers leave: the block's end, `disconnect`, grace, what `main` has to say about it.

What the primary decides about it, in all its variety: `tests/primary/test_cluster_life.py`, in memory.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
import time
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1

import pytest

from everycore import (
    Cluster,
    Disconnected,
    Exited,
    ExitStatus,
    Listening,
    Online,
    Ready,
    Settings,
    State,
    Worker,
)
from everycore.core.stopping import SAME_REQUEST
from tests.kit import scaled, turn, wait_gone
from tests.kit.workers import ECHO, HEAD, IDLE, Diary, eventually, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For what a loop has a part in: connections, servers, signals. The rest runs on `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")

#: Neither TERM nor its channel is heard: its loop is blocked.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)

async def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await everycore.current_worker().send("blocked")
    while True:
        signal.pause()

everycore.run(main())
"""


async def start(cluster: Cluster, diary: Diary, *, until: type = Online) -> Worker:
    worker = cluster.fork()
    await diary.until(until, worker)
    return worker


async def heard(worker: Worker) -> object:
    """The next thing that the worker says."""
    return (await within(anext(worker.messages()))).message


class Client:
    """One connection to an echo server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> "Client":
        client = cls(*await asyncio.open_connection(*address))
        await client.talk()
        return client

    async def talk(self) -> None:
        self.writer.write(b"echo\n")
        assert await within(self.reader.readline()) == b"echo\n"

    async def ended(self) -> bool:
        """Waits for the other side to end it."""
        try:
            return await within(self.reader.read()) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


class TestTheBlock:
    async def test_left_by_return_every_worker_leaves_and_nothing_is_left(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            workers = [await start(cluster, diary, until=Ready) for _ in range(2)]
            address = diary.all(Listening)[0].address
        assert [await worker.wait() for worker in workers] == [ExitStatus(code=0)] * 2
        assert all(event.voluntary for event in diary.all(Exited))
        assert wait_gone([worker.pid or 0 for worker in workers], 0) == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    async def test_a_cancelled_task_takes_its_cluster_with_it_and_stays_cancelled(self, tmp_path):
        there: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

        async def run_cluster() -> None:
            async with Cluster(Settings(exec=worker_script(tmp_path, STUBBORN)), grace=1000) as cluster:
                worker = cluster.fork()
                await anext(worker.messages())
                there.set_result(worker)
                await asyncio.Event().wait()

        task = asyncio.create_task(run_cluster())
        worker = await within(there)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        assert task.cancelled()
        assert await worker.wait() == ExitStatus(signal=SIGKILL)

    async def test_a_worker_that_hears_nothing_is_killed_when_grace_is_over(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, STUBBORN)), grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = cluster.fork()
            await heard(worker)
            asked = time.monotonic()
        assert await worker.wait() == ExitStatus(signal=SIGKILL)
        assert diary.all(Exited)[0].voluntary
        assert 0.1 <= time.monotonic() - asked < scaled(3)


class TestDisconnect:
    @both_loops
    async def test_an_open_connection_is_waited_for(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            address = diary.all(Listening)[0].address
            client = await Client.to(address)
            worker.disconnect()
            with pytest.raises(ConnectionRefusedError):  # the last one: nobody takes connections
                await asyncio.open_connection(*address)
            for _ in range(3):
                await client.talk()
            assert worker.state is State.DRAINING
            assert diary.all(Disconnected) == []
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    @both_loops
    async def test_when_grace_is_over_connections_are_cut_and_the_worker_leaves_well(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO)), grace=0.1) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            client = await Client.to(diary.all(Listening)[0].address)
            worker.disconnect()
            assert await client.ended()
            assert await within(worker.wait()) == ExitStatus(code=0)
            await client.close()

    @both_loops
    @pytest.mark.parametrize("how", ["connect_accepted_socket(Echo, ", "create_connection(Echo, sock="])
    async def test_a_connection_that_came_over_the_channel_is_waited_for(self, tmp_path, how):
        source = """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)

        async def main():
            worker = everycore.current_worker()
            async for message in worker.messages():
                await asyncio.get_running_loop().HOWmessage.handle)
                del message
                await worker.send("served")

        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source.replace("HOW", how)))) as cluster:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            await worker.send(None, theirs)
            assert await heard(worker) == "served"
            client = Client(*await asyncio.open_connection(sock=ours))
            worker.disconnect()
            await client.talk()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_other_workers_go_on(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            first, second = [await start(cluster, diary, until=Ready) for _ in range(2)]
            address = diary.all(Listening)[0].address
            first.disconnect()
            for _ in range(4):
                await (await Client.to(address)).close()
            await within(first.wait())
            await (await Client.to(address)).close()
            assert second.is_ready

    @pytest.mark.race
    async def test_a_worker_told_before_it_is_online_is_stopped_when_it_joins(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            diary = Diary(cluster)
            workers = [cluster.fork().disconnect() for _ in range(6)]
            statuses = [await within(worker.wait()) for worker in workers]
        assert statuses == [ExitStatus(code=0)] * 6
        for worker in workers:
            assert diary.names(worker) == ["Forked", "Online", "Disconnected", "Exited"]
            assert worker.exited_voluntarily

    @both_loops
    @pytest.mark.race
    async def test_a_worker_told_the_moment_it_is_online(self, tmp_path):
        """Whether its loop reads the channel already, or not yet, or is just being made."""
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            cluster.on(Online, lambda event: event.worker.disconnect())
            workers = [cluster.fork() for _ in range(6)]
            assert [await within(worker.wait()) for worker in workers] == [ExitStatus(code=0)] * 6
        assert all(event.voluntary for event in diary.all(Exited))


class TestByItself:
    async def test_current_worker_disconnect_is_voluntary_before_the_channel_closes(self, tmp_path):
        source = """
        async def main():
            me = everycore.current_worker()
            assert me.disconnect() is me
            me.disconnect()
            await me.send("on my way")
            await for_ever()
        everycore.run(main())
        """
        voluntary = []
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            cluster.on(Disconnected, lambda event: voluntary.append(event.worker.exited_voluntarily))
            worker = cluster.fork()
            stream = worker.messages()
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert (await within(anext(stream))).message == "on my way"
        assert voluntary == [True]
        assert diary.all(Exited)[0].voluntary

    async def test_current_worker_disconnect_without_a_loop(self, tmp_path):
        source = """
        listener = everycore.listen(("127.0.0.1", 0))
        everycore.current_worker().disconnect()
        signal.pause()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(code=0)
        assert diary.all(Exited)[0].voluntary

    async def test_current_worker_kill_sends_that_signal_and_is_not_voluntary(self, tmp_path):
        source = """
        async def main():
            everycore.current_worker().kill(signal.SIGUSR1)
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            assert await within(cluster.fork().wait()) == ExitStatus(signal=signal.SIGUSR1)
        assert not diary.all(Exited)[0].voluntary

    @both_loops
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=lambda number: number.name)
    async def test_a_signal_to_a_worker_lets_it_finish_its_work(self, tmp_path, number):
        async with Cluster(Settings(exec=worker_script(tmp_path, ECHO))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            address = diary.all(Listening)[0].address
            client = await Client.to(address)
            worker.kill(number)
            while worker.state is State.LISTENING:  # it tells by the link
                await client.talk()
            await client.talk()
            await client.close()
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert diary.all(Exited)[0].voluntary

    async def test_kill_without_a_signal_is_sigterm(self, tmp_path):
        source = """
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
        os.write(1, b"")
        everycore.listen(("127.0.0.1", 0))
        signal.pause()
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source))) as cluster:
            diary = Diary(cluster)
            worker = await start(cluster, diary, until=Ready)
            worker.kill()
            assert await within(worker.wait()) == ExitStatus(code=9)
            worker.kill()  # gone: nothing happens


class TestABlockedLoop:
    """A signal asks the loop; one that does not hear it ends by it when the grace is over."""

    @both_loops
    @pytest.mark.parametrize(
        ("how", "number"),
        [
            ("while True: pass", SIGTERM),
            ("threading.Event().wait()", SIGTERM),
            ("signal.pause()", SIGINT),
        ],
    )
    async def test_it_ends_by_the_signal(self, tmp_path, how, number):
        source = f"""
        async def main():
            await everycore.current_worker().send("blocked")
            while True:
                {how}

        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source)), grace=0.2) as cluster:
            worker = cluster.fork()
            assert await heard(worker) == "blocked"
            worker.kill(number)
            assert await within(worker.wait()) == ExitStatus(signal=number)
            assert not worker.exited_voluntarily

    @both_loops
    async def test_one_that_turns_again_in_time_leaves_well(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send("blocked")
            os.read(int(os.environ["GATE"]), 1)
            await for_ever()

        everycore.run(main())
        """
        gate, key = os.pipe()
        try:
            settings = Settings(
                exec=worker_script(tmp_path, source), env={"GATE": str(gate)}, pass_fds=[gate]
            )
            async with Cluster(settings, grace=20.0) as cluster:
                worker = cluster.fork()
                assert await heard(worker) == "blocked"
                worker.kill(SIGTERM)
                os.write(key, b"!")
                assert await within(worker.wait()) == ExitStatus(code=0)
                assert worker.exited_voluntarily
        finally:
            os.close(gate)
            os.close(key)


class TestMain:
    """What `main` does with it."""

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
            client = await Client.to(diary.all(Listening)[0].address)
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
    async def test_whoever_asked(self, tmp_path, how):
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
    """Programs of threads and plain sockets: they are asked by SIGTERM."""

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
            client = await Client.to(diary.all(Listening)[0].address)
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
            client = await Client.to(diary.all(Listening)[0].address)
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


class TestSignalsToThePrimary:
    """`everycore.run` in the primary: what an operator's TERM and Ctrl-C do."""

    SOURCE = (
        HEAD
        + """
async def handle(reader, writer):
    async for line in reader:
        writer.write(line)
    writer.close()

async def main():
    if everycore.is_primary:
        async with everycore.Cluster(grace=float(sys.argv[1])) as cluster:
            cluster.on(everycore.Listening, lambda event: say("listening", event.address[1]))
            cluster.on(everycore.Exited, lambda event: say("exited:", event.status))
            cluster.fork()
            await for_ever()
    else:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        await server.serve_forever()

everycore.run(main())
"""
    )

    def connect(self, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=scaled(10))
        try:
            client.sendall(b"echo\n")
            if client.recv(5) != b"echo\n":
                raise ConnectionResetError
        except BaseException:
            client.close()
            raise
        return client

    def wait_refused(self, port: int) -> None:
        """Until the primary has heard the signal, others are let in."""
        with contextlib.suppress(ConnectionError):
            while True:
                self.connect(port).close()

    @both_loops
    def test_term_lets_work_finish_and_ends_with_status_0(self, start_program):
        program = start_program(self.SOURCE, "1000")
        port = int(program.expect(r"listening (\d+)")[1])
        with self.connect(port) as client:
            program.signal(SIGTERM)
            self.wait_refused(port)
            client.sendall(b"echo\n")
            assert client.recv(5) == b"echo\n"
            assert program.is_running
        program.expect("exited: exit status 0")
        assert program.wait() == 0

    @both_loops
    def test_int_ends_as_keyboard_interrupt(self, start_program):
        program = start_program(self.SOURCE, "1000")
        program.expect("listening")
        program.signal(SIGINT)
        program.expect("exited: exit status 0")
        assert program.wait() == -SIGINT
        assert program.stderr == ""

    def test_an_excepthook_of_the_programs_own_is_told(self, start_program):
        hook = "sys.excepthook = lambda kind, error, trace: say('hook:', kind.__name__)\n"
        program = start_program(
            self.SOURCE.replace("everycore.run(main())", hook + "everycore.run(main())"), "1"
        )
        program.expect("listening")
        program.signal(SIGINT)
        program.expect("^hook: KeyboardInterrupt$")
        assert program.wait() == -SIGINT

    def test_what_else_ends_a_program_has_its_traceback(self, start_program):
        ends = (
            "try:\n    everycore.run(main())\nexcept KeyboardInterrupt as it:\n    raise SystemError from it"
        )
        program = start_program(self.SOURCE.replace("everycore.run(main())", ends), "1")
        program.expect("listening")
        program.signal(SIGINT)
        assert program.wait() == 1
        assert program.stderr.endswith("\nSystemError\n")

    def test_a_second_term_changes_nothing(self, start_program):
        program = start_program(self.SOURCE, "1000")
        port = int(program.expect(r"listening (\d+)")[1])
        with self.connect(port) as client:
            program.signal(SIGTERM)
            self.wait_refused(port)
            for _ in range(3):
                threading.Event().wait(2 * SAME_REQUEST)
                program.signal(SIGTERM)
            client.sendall(b"echo\n")
            assert client.recv(5) == b"echo\n"
        program.expect("exited: exit status 0")
        assert program.wait() == 0

    def test_a_worker_that_is_forked_while_it_stops_never_starts(self, start_program):
        """A program replaces a worker that has died just before: it would never come to its end."""
        fork = "asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 1) and cluster.fork())"
        program = start_program(
            self.SOURCE.replace("await for_ever()", f"{fork}\n            await for_ever()"), "1000"
        )
        port = int(program.expect(r"listening (\d+)")[1])
        with self.connect(port):
            program.signal(SIGTERM)
            self.wait_refused(port)
            program.write("x")
            program.expect("exited: not started: .* the cluster is shutting down")
            assert program.is_running
        program.expect("exited: exit status 0")
        assert program.wait() == 0

    def test_a_pool_whose_block_is_being_left_keeps_its_grace(self, start_program):
        pool = self.SOURCE.replace("everycore.Cluster(", "everycore.Pool(1, ").replace(
            "cluster.fork()", "pass"
        )
        leave = """loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, say, "heard")
            asked = asyncio.Event()
            loop.add_reader(0, lambda: os.read(0, 1) and asked.set())
            await asked.wait()
            say("leaves")
        say("left")"""
        program = start_program(pool.replace("await for_ever()", leave), "1000")
        port = int(program.expect(r"listening (\d+)")[1])
        with self.connect(port) as client:
            program.write("x")
            program.expect("leaves")
            program.signal(SIGTERM)
            program.signal(SIGUSR1)
            program.expect("heard")
            client.sendall(b"echo\n")
            assert client.recv(5) == b"echo\n"
        program.expect("exited: exit status 0")
        program.expect("left")
        assert program.wait() == 0
        assert program.stderr == ""

    def test_a_second_signal_kills_at_once(self, start_program):
        program = start_program(self.SOURCE, "1000")
        port = int(program.expect(r"listening (\d+)")[1])
        with self.connect(port):
            program.signal(SIGTERM)
            self.wait_refused(port)
            program.signal(SIGINT)  # another one: the same at once would be the first, delivered twice
            program.expect("exited: killed by SIGKILL")
            assert program.wait() == 0

    def test_ctrl_c_reaches_the_whole_group_and_all_end(self, start_program):
        program = start_program(self.SOURCE, "1000")
        program.expect("listening")
        program.signal_group(SIGINT)
        program.expect("exited: exit status 0")
        assert program.wait() == -SIGINT


class TestBeforeItsProgram:
    """A worker hears signals from its first moment on: Ctrl-C reaches the terminal's whole process group."""

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
