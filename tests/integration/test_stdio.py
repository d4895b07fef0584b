"""A worker's standard streams: the primary's own, asynchronous streams, files, /dev/null."""

import errno
import os
from signal import SIGKILL

import pytest

from everycore import Cluster, ConfigurationError, ExitStatus, Settings
from tests.kit.workers import HEAD, within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]

THREE_LINES = """
os.write(1, b"to stdout\\n")
os.write(2, b"to stderr\\n")
say("from stdin:", repr(sys.stdin.readline()))
"""


class TestInherit:
    def test_all_three_are_the_primarys(self, start_program):
        program = start_program(
            HEAD
            + """
async def main():
    async with everycore.Cluster() as cluster:
        worker = cluster.fork()
        assert worker.stdin is worker.stdout is worker.stderr is None
        say("worker:", await worker.wait())

if everycore.is_primary:
    everycore.run(main())
else:
    os.write(1, b"to stdout\\n")
    os.write(2, b"to stderr\\n")
    say("from stdin:", sys.stdin.readline().strip())
"""
        )
        program.write("a line\n")
        program.expect("to stdout")
        program.expect("from stdin: a line")
        program.expect("worker: exit status 0")
        assert program.wait() == 0
        assert program.stderr == "to stderr\n"


class TestPipe:
    async def test_all_three_are_asynchronous_streams(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, THREE_LINES), stdio="pipe")
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            assert worker.stdin
            assert worker.stdout
            assert worker.stderr
            assert await within(worker.stdout.readline()) == b"to stdout\n"
            assert await within(worker.stderr.readline()) == b"to stderr\n"
            worker.stdin.write(b"hello\n")
            await within(worker.stdin.drain())
            assert await within(worker.stdout.readline()) == b"from stdin: 'hello\\n'\n"
            assert await within(worker.wait()) == ExitStatus(code=0)
            assert await within(worker.stdout.read()) == b""
            assert await within(worker.stderr.read()) == b""

    async def test_written_and_closed_before_the_worker_runs(self, tmp_path):
        source = """
        text = sys.stdin.read()
        say(len(text), text[-4:])
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source), stdio="pipe")) as cluster:
            worker = cluster.fork()
            assert worker.stdin
            assert worker.stdout
            worker.stdin.write(b"." * 300_000)  # more than a pipe holds
            worker.stdin.write(b"last")
            worker.stdin.close()
            assert await within(worker.stdout.readline()) == b"300004 last\n"
            assert await within(worker.wait()) == ExitStatus(code=0)

    async def test_what_a_dead_worker_wrote_can_still_be_read(self, tmp_path):
        source = "os.write(1, b'x' * 50_000)"
        async with Cluster(Settings(exec=worker_script(tmp_path, source), stdio="pipe")) as cluster:
            worker = cluster.fork()
            assert worker.stdout
            await within(worker.wait())
            assert await within(worker.stdout.read()) == b"x" * 50_000

    async def test_silent_is_stdout_and_stderr(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, THREE_LINES), stdio="null", silent=True)
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            assert worker.stdin is None
            assert worker.stdout
            assert worker.stderr
            assert await within(worker.stdout.read()) == b"to stdout\nfrom stdin: ''\n"
            assert await within(worker.stderr.read()) == b"to stderr\n"

    async def test_nobody_reads_and_nothing_is_left(self, tmp_path):
        """The kit checks descriptors; the worker blocks on its full pipe until it is killed."""
        source = "os.write(2, b'.' * 1_000_000)"
        async with Cluster(Settings(exec=worker_script(tmp_path, source), stdio="pipe")) as cluster:
            workers = [cluster.fork() for _ in range(2)]
            for worker in workers:
                worker.kill(SIGKILL)
                assert await within(worker.wait()) == ExitStatus(signal=SIGKILL)
            cluster.fork()  # killed by leaving, before its streams are even connected
            cluster.setup_primary(exec=[str(tmp_path / "missing")])
            assert (await within(cluster.fork().wait())).error is not None
            for worker in cluster.workers.values():
                worker.kill(SIGKILL)

    async def test_writing_to_a_worker_that_is_gone_raises_nothing_in_the_primary(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, "os._exit(0)"), stdio="pipe")) as cluster:
            worker = cluster.fork()
            assert worker.stdin
            await within(worker.wait())
            worker.stdin.write(b"too late\n")
            worker.stdin.close()


class TestFiles:
    async def test_a_path_is_appended_to(self, tmp_path):
        log = tmp_path / "log"
        log.write_text("before\n")
        settings = Settings(exec=worker_script(tmp_path, THREE_LINES), stdio=["null", log, str(log)])
        async with Cluster(settings) as cluster:
            worker = cluster.fork()
            assert worker.stdout is worker.stderr is None
            assert await within(worker.wait()) == ExitStatus(code=0)
        assert log.read_text() == "before\nto stdout\nto stderr\nfrom stdin: ''\n"

    async def test_a_file_object_and_a_descriptor_stay_the_callers(self, tmp_path):
        with (tmp_path / "out").open("wb") as out, (tmp_path / "in").open("w+b") as in_:
            in_.write(b"hello\n")
            in_.seek(0)
            settings = Settings(
                exec=worker_script(tmp_path, THREE_LINES), stdio=[in_, out, out.fileno()], umask=0o022
            )
            async with Cluster(settings) as cluster:
                assert await within(cluster.fork().wait()) == ExitStatus(code=0)
            os.write(out.fileno(), b"mine\n")
        assert (tmp_path / "out").read_text() == "to stdout\nto stderr\nfrom stdin: 'hello\\n'\nmine\n"

    async def test_null(self, tmp_path):
        source = """
        async def main():
            await everycore.current_worker().send([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)])
        everycore.run(main())
        """
        async with Cluster(Settings(exec=worker_script(tmp_path, source), stdio="null")) as cluster:
            assert (await within(anext(cluster.fork().messages()))).message == ["/dev/null"] * 3

    async def test_a_fifo_without_a_reader_is_an_exit_with_an_error(self, tmp_path):
        """Opening a FIFO for writing waits for a reader: the primary would wait."""
        os.mkfifo(tmp_path / "fifo")
        async with Cluster(Settings(exec="x.py", stdio=tmp_path / "fifo")) as cluster:
            status = await within(cluster.fork().wait())
            assert status.error is not None
            assert status.error.errno == errno.ENXIO

    async def test_a_fifo_with_a_reader_is_written_as_any_file(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        try:
            script = worker_script(tmp_path, 'say("blocking:", os.get_blocking(1))')
            async with Cluster(Settings(exec=script, stdio=tmp_path / "fifo")) as cluster:
                await within(cluster.fork().wait())
            assert os.read(reader, 100) == b"blocking: True\n"
        finally:
            os.close(reader)

    async def test_a_folder_that_is_missing_is_an_exit_with_an_error(self, tmp_path):
        settings = Settings(exec=worker_script(tmp_path, ""), stdio=tmp_path / "nowhere" / "log")
        async with Cluster(settings) as cluster:
            assert isinstance((await within(cluster.fork().wait())).error, FileNotFoundError)


@pytest.mark.parametrize(
    "wrong",
    ["pipes", "", ["pipe"], ["pipe"] * 4, ["pipe", "pipe", "pipes"], 1.5, True, -1, -3, 2**31, "a/\0", b"/a"],
    ids=repr,
)
def test_anything_but_a_stream_is_refused(wrong):
    """It is refused where it is given, so every `Settings` is valid. (`subprocess` uses -1 and -3.)"""
    with pytest.raises(ConfigurationError, match=r"^stdio: "):
        Settings(stdio=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"umask": "022"},
        {"umask": True},
        {"umask": -1},
        {"umask": 1.0},
        {"silent": "no"},
        {"silent": None},
        {"silent": 1},
    ],
    ids=str,
)
def test_a_malformed_umask_or_bool_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        Settings(**wrong)


class TellsItsPathInBytes(os.PathLike):
    def __fspath__(self):
        return b"/dev/null"


def test_a_path_may_be_bytes():
    path = TellsItsPathInBytes()
    assert Settings(cwd=path, stdio=path).cwd is path


class TestPassFds:
    async def test_the_worker_has_it_under_the_same_number_and_no_other(self, tmp_path):
        source = """
        mine, other = int(sys.argv[1]), int(sys.argv[2])
        os.write(mine, b"from the worker")
        try:
            os.fstat(other)
        except OSError as error:
            say(error.errno)
        """
        heard, told = os.pipe()
        other = os.dup(told)
        try:
            script = worker_script(tmp_path, source)
            settings = Settings(exec=script, args=[str(told), str(other)], silent=True, pass_fds=[told])
            async with Cluster(settings) as cluster:
                worker = cluster.fork()
                assert await within(worker.wait()) == ExitStatus(code=0)
                assert worker.stdout
                assert await within(worker.stdout.read()) == b"9\n"
            assert os.read(heard, 100) == b"from the worker"
        finally:
            for fd in (heard, told, other):
                os.close(fd)

    async def test_one_that_is_not_open(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, ""), pass_fds=[9999])) as cluster:
            with pytest.raises(ConfigurationError, match="pass_fds: descriptor 9999 is not open"):
                cluster.fork()

    @pytest.mark.parametrize("wrong", ["34", [True], [-1], ["3"], [1], 5])
    def test_numbers_that_are_not_descriptors_or_have_their_own_setting(self, wrong):
        with pytest.raises(ConfigurationError, match="pass_fds"):
            Settings(pass_fds=wrong)
