"""Workers of another user, without a process: what they ask for on the link, and what they get.

They share listeners, belts and a board with workers of their user alone. Only named addresses are bound.
With real users: `tests/integration/test_users.py`.
"""

import contextlib
import errno
import os
import socket
import struct

import pytest

from everycore import Cluster, ConfigurationError, ExitStatus, Message, Settings
from everycore.core import wire
from everycore.core.permits import INHERITED
from everycore.primary.listeners.leftovers import MOST_KEPT
from everycore.system.descriptors import close_all, socket_file
from everycore.testing import settle
from tests.kit import open_fds
from tests.kit.fake_processes import FakeProcesses
from tests.kit.ports import free_port

OTHER = 65534
INET, STREAM = int(socket.AF_INET), int(socket.SOCK_STREAM)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives links to others")


def listen(address, **more):
    family = socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET
    return wire.Listen(address=address, family=family, kind=STREAM, backlog=10, **more)


class Place:
    """A cluster of fakes. `await join(addresses)` makes one of another user, `join()` one of this user."""

    def __init__(self, cluster, processes):
        self.cluster = cluster
        self._processes = processes
        self.fds = []

    async def join(self, addresses=None, user=OTHER):
        if addresses is None:
            self.cluster.setup_primary(uid=None, gid=None, groups=None, addresses=())
        else:
            self.cluster.setup_primary(uid=user, gid=user, groups=(), addresses=addresses)
        self.cluster.fork()
        worker = self._processes.all[-1]
        worker.join()
        await settle()
        return worker

    async def ask(self, worker, request, fds=()):
        answer, owned = await worker.ask(request, fds)
        self.fds += owned
        return answer

    async def refused(self, worker, request, fds=()):
        """The errno and the sentence."""
        answer = await self.ask(worker, request, fds)
        assert isinstance(answer, wire.Refused)
        return answer.errno, answer.text

    @property
    def listeners(self):
        return list(self.cluster._runtime.switchboard._book)

    @property
    def addresses(self):
        return [listener.socket.real for listener in self.listeners]


@contextlib.asynccontextmanager
async def place(**options):
    before = open_fds()
    with FakeProcesses() as processes:
        async with Cluster(Settings(exec="program.py"), grace=1.0, **options) as cluster:
            it = Place(cluster, processes)
            yield it
            close_all(it.fds)
            for worker in processes.all:
                if worker.process.status is None:
                    worker.end(ExitStatus(code=0))
    assert open_fds() == before


@pytest.mark.parametrize("policy", ["round_robin", "shared"])
async def test_it_has_what_is_named_and_nothing_else(policy, tmp_path):
    port = free_port()
    async with place(policy=policy) as it:
        worker = await it.join([("127.0.0.1", port), tmp_path / "named.sock"])
        for wanted in (["127.0.0.1", free_port()], ["127.0.0.1", 0], ["0.0.0.0", port], "/etc/x.sock", None):
            number, text = await it.refused(worker, listen(wanted))
            assert number == errno.EACCES
            assert (
                "the worker runs as another user than the primary, and `addresses` (--permit) lacks this one"
                in text
            )
        number, _ = await it.refused(worker, listen(None, fd=0))
        assert number == errno.EACCES
        assert isinstance(await it.ask(worker, listen(["127.0.0.1", port])), wire.Granted)
        assert isinstance(await it.ask(worker, listen(os.fsencode(tmp_path / "named.sock"))), wire.Granted)
        assert it.addresses == [("127.0.0.1", port), str(tmp_path / "named.sock")]


LIES = {
    "an address beside the name": lambda port, path: (["127.0.0.1", port], None, None, path),
    "a path beside the name": lambda port, path: ("/etc/by-nobody.sock", 0o777, None, path),
    "a folder that makes it the name": lambda port, path: (
        "/etc/by-nobody.sock", 0o777, os.path.dirname(path), os.path.basename(path),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_what_is_checked_is_what_is_bound(lie, family, tmp_path):
    """An IP socket counts by its address, a unix socket by its name. The settings' own address is bound."""
    path, port = os.fsencode(tmp_path / "named.sock"), free_port()
    async with place() as it:
        await it.ask(await it.join(), listen(["127.0.0.1", port]))
        worker = await it.join([tmp_path / "named.sock"])
        with socket.socket(family) as given:
            answer = await it.ask(worker, wire.Bind(*LIES[lie](port, path)), [os.dup(given.fileno())])
        if family == socket.AF_INET:
            assert (answer.errno, "lacks this one" in answer.text) == (errno.EACCES, True)
            assert it.addresses == [("127.0.0.1", port)]
        else:
            assert it.addresses == [("127.0.0.1", port), str(tmp_path / "named.sock")]
        assert "by-nobody.sock" not in os.listdir("/etc")


async def test_the_socket_of_its_program_is_not_the_listener_and_lends_it_a_few_options():
    """An open file that the worker has too could make the primary wait."""
    port = free_port()
    async with place() as it:
        worker = await it.join([("127.0.0.1", port)])
        with socket.socket() as given:
            given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
            for level, option in INHERITED:
                given.setsockopt(level, option, 1)
            answer = await it.ask(worker, wire.Bind(["127.0.0.1", port]), [os.dup(given.fileno())])
            assert isinstance(answer, wire.Granted)
            (listener,) = it.listeners
            own = listener.socket.sock
            assert socket_file(own.fileno()) != socket_file(given.fileno())
            for level, option in INHERITED:
                assert own.getsockopt(level, option) == given.getsockopt(level, option)
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)
            assert not listener.socket.is_listening
            number = answer.listener
            assert await it.refused(worker, wire.Release(number)) == (
                errno.EACCES, "the worker runs as another user than the primary, which has bound this itself",
            )  # fmt: skip
            assert (await it.refused(worker, wire.StartListening(number, 2**40)))[0] == errno.EINVAL
            assert isinstance(await it.ask(worker, wire.StartListening(number, 10)), wire.Done)
            assert listener.socket.is_listening


async def test_options_are_those_of_a_short_list():
    port = free_port()
    async with place() as it:
        worker = await it.join([("127.0.0.1", port)])
        number = (await it.ask(worker, listen(["127.0.0.1", port]))).listener
        one = (1).to_bytes(4, "little")
        assert isinstance(await it.ask(worker, wire.SetOption(number, 1, 9, one)), wire.Done)
        assert await it.ask(worker, wire.GetOption(number, 1, 9, 4)) == wire.Option(one)
        for option in (36, 33, 25, 26, 50):  # SO_MARK, RCVBUFFORCE, BINDTODEVICE, ATTACH_FILTER, ATTACH_BPF
            for request in (wire.SetOption(number, 1, option, one), wire.GetOption(number, 1, option, 4)):
                why = "the worker runs as another user than the primary, and may not use this socket option"
                assert await it.refused(worker, request) == (errno.EPERM, why)


@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("foreign_first", [False, True])
async def test_workers_of_two_users_on_one_address_are_refused_in_words(foreign_first, policy):
    port = free_port()
    named = [("127.0.0.1", port)]
    async with place(policy=policy) as it:
        first = await it.join(named if foreign_first else None)
        second = await it.join(None if foreign_first else named)
        third = await it.join(named if foreign_first else None)
        assert isinstance(await it.ask(first, listen(["127.0.0.1", port])), wire.Granted)
        number, text = await it.refused(second, listen(["127.0.0.1", port]))
        assert number == errno.EADDRINUSE
        assert "workers of another user listen there" in text
        with socket.socket() as given:
            fds = [os.dup(given.fileno())]
            assert (await it.refused(second, wire.Bind(["127.0.0.1", port]), fds))[0] == errno.EADDRINUSE
        assert isinstance(await it.ask(third, listen(["127.0.0.1", port])), wire.Granted)
        assert [listener.subscribers for listener in it.listeners] == [[1, 3]]


async def test_a_descriptor_of_the_primary_serves_one_user_too():
    with socket.create_server(("127.0.0.1", 0)) as named:
        async with place() as it:
            await it.ask(await it.join(), listen(list(named.getsockname())))
            worker = await it.join([named.fileno()])
            request = listen(None, fd=named.fileno())
            first = await it.ask(worker, request)
            # Bound by the test itself: the first one gets it.
            assert isinstance(first, wire.Granted)
            own = await it.join()
            number, text = await it.refused(own, listen(list(named.getsockname())))
            assert (number, "another user" in text) == (errno.EADDRINUSE, True)


async def test_each_user_has_a_board():
    async with place() as it:
        boards = [(await it.join(who, user)).process.ticket.board[1] for who, user in
                  ((None, 0), ([], OTHER), (None, 0), ([], OTHER), ([], OTHER - 1))]  # fmt: skip
        own, other = boards[0], boards[1]
        assert boards == [own, other, own, other, boards[4]]
        assert len({own, other, boards[4]}) == 3


async def test_it_may_send_messages_and_no_pickles():
    async with place() as it:
        worker = await it.join([])
        heard: list[object] = []
        it.cluster.workers[max(it.cluster.workers)].on(Message, lambda message: heard.append(message.message))
        worker.say_note({"a": 1})
        await settle()
        assert heard == [{"a": 1}]
        it.cluster.setup_primary(serialization="pickle")
        with pytest.raises(ConfigurationError, match="pickle executes code"):
            it.cluster.fork()


async def test_a_refusal_is_told_once_for_each_address(caplog):
    async with place() as it:
        worker = await it.join([])
        for port in (81, 82, 81, 82):
            fd = socket.socket().detach()
            answer = await it.ask(worker, wire.Bind(["127.0.0.1", port]), [fd])
            assert answer.errno == errno.EACCES
    told = [record.getMessage() for record in caplog.records if "--permit" in record.getMessage()]
    assert [":81" in line for line in told] == [True, False]


async def test_a_dual_stack_socket_takes_no_port_that_is_not_named():
    port = free_port()
    request = wire.Listen(
        address=["::", port, 0, 0], family=socket.AF_INET6, kind=STREAM, backlog=1, v6only=False
    )
    for named, is_alone in ([("::", port)], 1), ([("::", port), ("0.0.0.0", port)], 0):
        async with place() as it:
            await it.ask(await it.join(named), request)
            (listener,) = it.listeners
            assert listener.socket.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == is_alone


@needs_root
async def test_a_link_of_its_own_leads_nowhere(tmp_path):
    """The worker has replaced its folder by a link: nothing is bound there, nor removed later."""
    folder, elsewhere = tmp_path / "its", tmp_path / "etc"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    os.chown(folder, OTHER, OTHER, follow_symlinks=False)
    async with place() as it:
        worker = await it.join([folder / "named.sock"])
        number, text = await it.refused(worker, listen(os.fsencode(folder / "named.sock")))
        assert number == errno.ELOOP
        assert str(folder / "named.sock") in text
        assert os.listdir(elsewhere) == []


async def test_a_connection_is_handed_on_within_one_user_alone():
    port = free_port()
    async with place() as it:
        ours = [await it.join(), await it.join()]
        for worker in ours:
            await it.ask(worker, listen(["127.0.0.1", port]))
        switchboard = it.cluster._runtime.switchboard
        assert switchboard.holders_of(os.geteuid(), lambda _: True) == [1, 2]
        assert switchboard.holders_of(OTHER, lambda _: True) == []


@pytest.mark.parametrize("when_no_worker", ["refuse", "hold"])
async def test_one_that_binds_and_dies_over_and_over_leaves_so_many_listeners_and_no_more(when_no_worker):
    """They wait for its replacement; those that have waited longest are closed. (Loopback addresses.)"""
    async with place(when_no_worker=when_no_worker) as it:
        for round_ in range(4):
            worker = await it.join()
            for number in range(1, 101):
                answer = await it.ask(worker, listen([f"127.{round_}.{number}.1", 18099]))
                assert isinstance(answer, wire.Granted)
            close_all(it.fds)
            it.fds.clear()
            worker.end(ExitStatus(code=1))
            await it.cluster.wait()
        assert len(it.listeners) == MOST_KEPT
        assert it.addresses[-1] == ("127.3.100.1", 18099)


@pytest.mark.parametrize("start", [False, True])
async def test_a_backlog_that_no_call_takes_does_not_stay(start):
    """Otherwise it would end the listener for all: it could not be made to listen again."""
    port = free_port()
    async with place() as it:
        worker = await it.join()
        number = (await it.ask(worker, listen(["127.0.0.1", port], start=start))).listener
        assert (await it.refused(worker, wire.StartListening(number, 2**62)))[0] == errno.EINVAL
        assert isinstance(await it.ask(await it.join(), listen(["127.0.0.1", port])), wire.Granted)
        (listener,) = it.listeners
        assert listener.socket.backlog == 10


async def test_a_refusal_about_a_path_that_is_not_valid_text_has_an_answer():
    async with place() as it:
        number, text = await it.refused(await it.join(), listen(b"/nowhere\xff/x"))
        assert (number, "/nowhere" in text) == (errno.ENOENT, True)
