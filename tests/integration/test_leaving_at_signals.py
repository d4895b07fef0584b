"""A primary that is signalled: its workers leave, and how `everycore.run` ends."""

import contextlib
import socket
import threading
from signal import SIGINT, SIGTERM, SIGUSR1

import pytest

from everycore.core.stopping import SAME_REQUEST
from tests.kit import scaled
from tests.kit.workers import (
    HEAD,
)

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

#: For tests in which the loop matters: connections, servers, signals. The rest uses `run`'s own choice.
both_loops = pytest.mark.usefixtures("loop_kind")


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
        """Wait until connections are refused: before the primary handles the signal they are not."""
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
        """A program replaces a worker that died just before: otherwise it would never end."""
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
