"""The observer as its primary runs it: started, answered, restarted, ended. The test plays it."""

import contextlib
import json
import os
import signal
import socket

import msgspec
import pytest

from everycore import ConfigurationError, Pool
from everycore.core.measures import ObserverJob
from everycore.model import ExitStatus
from everycore.primary.observing import SILENCE, ObserverAddress, ObserverPlan, ObserverPost
from everycore.system.processes import Spawned
from everycore.testing import settle
from tests.kit import pass_time, turn


class Observer:
    """A fake process, from its own side."""

    def __init__(self, argv, env, pass_fds, credentials):
        self.job = msgspec.json.decode(argv[-1], type=ObserverJob)
        self.argv, self.env, self.credentials = argv, env, credentials
        assert {self.job.line, *self.job.listeners} <= set(pass_fds)
        self.line = socket.socket(fileno=os.dup(self.job.line))
        self.line.settimeout(0)
        self.pidfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.status = None
        self.signals = []

    def end(self, status):
        self.status = status
        os.eventfd_write(self.pidfd, 1)
        self.line.close()

    async def ask(self, *lines):
        """The answers to these lines."""
        self.line.sendall(b"".join(line if isinstance(line, bytes) else _line(line) for line in lines))
        data = b""
        while data.count(b"\n") < len(lines):
            await turn()
            with contextlib.suppress(BlockingIOError):
                data += self.line.recv(1 << 20)
        return [json.loads(answer) for answer in data.splitlines()]


def _line(op):
    return json.dumps({"v": 1, "op": op}).encode() + b"\n"


class Observers:
    """The operating system, as far as observers are concerned."""

    def __init__(self):
        self.all = []
        self.refusals = []

    def spawn(self, argv, *, env, cwd, stdio, pass_fds, credentials, new_group, leash):
        if self.refusals:
            raise self.refusals.pop(0)
        assert new_group
        self.all.append(Observer(argv, env, pass_fds, credentials))
        return Spawned(1, os.dup(self.all[-1].pidfd), (None, None, None))

    def send_signal(self, pidfd, number, *, group=0):
        self.all[-1].signals.append(number)
        if number == signal.SIGKILL and self.all[-1].status is None:
            self.all[-1].end(ExitStatus(signal=signal.SIGKILL))
        return True

    def reap(self, pidfd, *, group=0):
        return self.all[-1].status


@pytest.fixture
def observers():
    made = Observers()
    yield made
    for one in made.all:
        one.line.close()
        os.close(one.pidfd)


def plan(*addresses):
    return ObserverPlan(
        setting="--metrics",
        addresses=tuple(ObserverAddress(socket.AF_INET, it) for it in addresses or [("127.0.0.1", 0)]),
        command=("observe",),
        env={"A": "b"},
        job=ObserverJob(min_ready=2),
    )


@contextlib.asynccontextmanager
async def observed(observers, tmp_path):
    pool = Pool(2, control=tmp_path / "control.sock")
    pool._control.observer = ObserverPost(plan(), observers)
    async with pool:
        await settle()
        yield pool


async def test_it_is_told_what_it_asks_and_may_order_nothing(workers, observers, tmp_path):
    async with observed(observers, tmp_path):
        (observer,) = observers.all
        assert (observer.argv[0], observer.env, observer.job.min_ready) == ("observe", {"A": "b"}, 2)
        hello, status, metrics, stop = await observer.ask("hello", "status", "metrics", "stop")
        assert hello["result"]["pid"] == os.getpid()
        assert status["result"]["size"] == 2
        assert metrics["result"]["status"]["size"] == 2
        assert (stop["ok"], stop["error"]["kind"]) == (False, "forbidden")


async def test_the_first_moment_of_a_stop_is_seen(workers, observers, tmp_path):
    async with observed(observers, tmp_path) as pool:
        for worker in workers.all:
            worker.ready()
        await settle()
        assert (await observers.all[0].ask("status"))[0]["result"]["state"] == "running"
        pool._announce_stop()  # what a signal does before a stop delay
        assert (await observers.all[0].ask("status"))[0]["result"]["state"] == "stopping"


async def test_one_that_ends_is_started_again_on_the_same_sockets(workers, observers, tmp_path, caplog):
    async with observed(observers, tmp_path):
        listeners = observers.all[0].job.listeners
        observers.all[0].end(ExitStatus(signal=signal.SIGKILL))
        await pass_time(0.2)
        assert len(observers.all) == 2
        assert observers.all[1].job.listeners == listeners
        assert (await observers.all[1].ask("hello"))[0]["ok"]
        observers.all[1].end(ExitStatus(code=1))
        await pass_time(0.1)
        assert len(observers.all) == 2  # later each time
        await pass_time(0.2)
        assert len(observers.all) == 3
    assert "the observer ended: killed by SIGKILL; it is started again in 0.1 s" in caplog.text


async def test_one_that_cannot_be_started_is_tried_again(workers, observers, tmp_path, caplog):
    observers.refusals.append(OSError(12, "Cannot allocate memory"))
    async with observed(observers, tmp_path):
        assert observers.all == []
        await pass_time(0.2)
        assert len(observers.all) == 1
    assert "the observer cannot be started: [Errno 12] Cannot allocate memory" in caplog.text


async def test_one_that_asks_nothing_hangs(workers, observers, tmp_path):
    async with observed(observers, tmp_path):
        await pass_time(SILENCE - 1)
        await observers.all[0].ask("hello")
        await pass_time(SILENCE - 1)
        assert observers.all[0].signals == []
        await pass_time(2)
        assert observers.all[0].signals == [signal.SIGKILL]
        assert len(observers.all) == 2


@pytest.mark.parametrize("sent", [b"\xff\n", b"{}\n", b"x" * (1 << 17), b'{"v":9,"op":"status"}\n'])
async def test_a_malformed_request_ends_the_line_of_the_observer_alone(workers, observers, tmp_path, sent):
    async with observed(observers, tmp_path):
        with contextlib.suppress(BlockingIOError):
            observers.all[0].line.sendall(sent)
        while observers.all[0].line.fileno() >= 0:
            await turn()
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if not observers.all[0].line.recv(1 << 16):
                    break
        await pass_time(SILENCE + 1)  # it has no primary to ask any more
        assert len(observers.all) == 2


async def test_it_ends_with_the_service_and_its_port_is_free(workers, observers, tmp_path):
    async with observed(observers, tmp_path) as pool:
        (listener,) = pool._control.observer._listeners
        port = listener.real[1]
        assert listener.sock.fileno() in set(pool.cluster._runtime.descriptors())
    assert observers.all[0].signals == [signal.SIGKILL]
    socket.create_server(("127.0.0.1", port)).close()


async def test_an_address_in_use_is_said_before_a_worker_is_started(workers, observers, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        pool = Pool(2, control=tmp_path / "control.sock")
        pool._control.observer = ObserverPost(plan(("127.0.0.1", 0), other.getsockname()), observers)
        with pytest.raises(ConfigurationError, match=r"--metrics: .*address already in use"):
            await pool.__aenter__()
    assert workers.all == []
    assert not (tmp_path / "control.sock").exists()


async def test_an_address_that_this_machine_lacks_is_left_out_where_there_is_another(
    workers, observers, tmp_path
):
    pool = Pool(2, control=tmp_path / "control.sock")
    pool._control.observer = ObserverPost(plan(("192.0.2.1", 0), ("127.0.0.1", 0)), observers)
    async with pool:
        await settle()
        assert len(observers.all[0].job.listeners) == 1


async def test_waits_and_ends_are_counted(workers, observers, tmp_path):
    async with observed(observers, tmp_path) as pool:
        await workers.all[0].listen()
        await settle()
        workers.all[1].exit(3)
        await settle()
        found = (await observers.all[0].ask("metrics"))[0]["result"]
        assert found["ends"] == {"exit status 3": 1}
        assert [one["id"] for one in found["workers"]] == [1]
        (listener,) = found["listeners"]
        assert (listener["accepted"], listener["refused"], listener["lost"]) == (0, 0, 0)
        assert pool.cluster._distribution.waits is not None
