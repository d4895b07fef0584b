"""Idle connections on their way through the primary: which worker gets them, and what is refused."""

import asyncio
import os
import socket
from contextlib import ExitStack

import pytest

from everycore.core import wire
from everycore.core.sticky import best
from everycore.errors import ProtocolError
from everycore.primary.handons import Exchange
from everycore.primary.listeners.factory import DistributionSettings
from tests.kit import open_fds, turn
from tests.kit.seats import FakeSeat

LOCAL = socket.inet_aton("127.0.0.1")


class FakeMember:
    def __init__(self, number):
        self.id = number
        self.seat = FakeSeat(number - 1)
        self.user = 0
        self.may = None
        self.taken = []

    def tell(self, message, fds=()):
        match message:
            case wire.MayHandOn(may):
                assert not fds
                self.may = may
            case wire.TakeOver():
                (fd,) = fds
                self.taken.append(socket.socket(fileno=fd))


class FakeSwitchboard:
    def __init__(self, listeners, **settings):
        self.listeners = listeners
        self.settings = DistributionSettings(**settings)

    def holders_of(self, user, is_it):
        assert user == 0
        return next((holders for listener, holders in self.listeners if is_it(listener)), [])


class Place:
    """Workers 1, 2 and 3 hold a listener; 1 leaves, and hands on."""

    def __init__(self, stack, family=socket.AF_INET, address=("127.0.0.1", 0), **settings):
        self.stack = stack
        self.listener = stack.enter_context(socket.socket(family))
        self.listener.bind(address)
        self.listener.listen()
        self.members = [FakeMember(number) for number in (1, 2, 3)]
        switchboard = FakeSwitchboard([(self.listener, [1, 2, 3])], **settings)
        self.exchange = Exchange(asyncio.get_running_loop(), switchboard)  # type: ignore[arg-type]

    async def leave(self):
        for member in self.members:
            self.exchange.can(member, 100)
            self.exchange.ready(member)
        self.exchange.leaves(self.members[0])
        await turn()
        assert [member.may for member in self.members] == [True, None, None]

    def connection(self):
        """A client, and the descriptor of its connection."""
        client = self.stack.enter_context(socket.socket(self.listener.family))
        client.connect(self.listener.getsockname())
        conn, _ = self.listener.accept()
        return client, conn.detach()

    def close_taken(self):
        for member in self.members:
            for sock in member.taken:
                sock.close()


@pytest.fixture(params=["tcp", "any host", "unix", "abstract"])
def address(request, tmp_path):
    match request.param:
        case "tcp":
            return socket.AF_INET, ("127.0.0.1", 0)
        case "any host":
            return socket.AF_INET, ("0.0.0.0", 0)
        case "unix":
            return socket.AF_UNIX, str(tmp_path / "s")
        case _:
            return socket.AF_UNIX, f"\0everycore-test-{os.getpid()}"


async def test_a_connection_goes_to_a_worker_that_stays(address):
    with ExitStack() as stack:
        place = Place(stack, *address)
        await place.leave()
        client, fd = place.connection()
        place.exchange.hand_on(place.members[0], [fd])
        (taken,) = place.members[1].taken
        client.sendall(b"x")
        assert taken.recv(1) == b"x"
        place.close_taken()


async def test_it_comes_back_when_the_others_have_been_asked_to_leave_meanwhile():
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        one, two, three = place.members
        _, fd = place.connection()
        place.exchange.leaves(two)
        place.exchange.leaves(three)
        place.exchange.hand_on(one, [fd])  # its message has crossed the primary's
        assert one.may is False  # and is told so before the connection is there again
        assert [len(member.taken) for member in place.members] == [1, 0, 0]
        place.close_taken()


@pytest.mark.parametrize("slot", [0, 4])
async def test_under_sticky_it_goes_where_the_clients_next_one_goes(slot):
    """To the successor in the slot, however busy; without one, to the client's next choice."""
    with ExitStack() as stack:
        place = Place(stack, policy="sticky")
        await place.leave()
        one, two, three = place.members
        three.seat.slot = slot
        own = three if slot == one.seat.slot or best(LOCAL, [1, slot]) == slot else two
        own.seat.open = 50
        _, fd = place.connection()
        place.exchange.hand_on(one, [fd])
        assert [member for member in place.members if member.taken] == [own]
        place.close_taken()


async def test_no_worker_hands_on_whose_clients_are_behind_a_proxy():
    """The worker that took the connection over would see the proxy as the client."""
    with ExitStack() as stack:
        place = Place(stack, trust_proxy_protocol=["127.0.0.1"])
        for member in place.members:
            place.exchange.can(member, 100)
            place.exchange.ready(member)
        place.exchange.leaves(place.members[0])
        await turn()
        assert [member.may for member in place.members] == [False, None, None]


async def test_a_stop_of_all_tells_no_worker_to_hand_on():
    with ExitStack() as stack:
        place = Place(stack)
        for member in place.members:
            place.exchange.can(member, 100)
            place.exchange.ready(member)
        await turn()
        for member in place.members:
            place.exchange.leaves(member)
        await turn()
        assert [member.may for member in place.members] == [False, False, False]


async def test_a_connection_whose_client_has_gone_is_closed():
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        client, fd = place.connection()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        place.exchange.hand_on(place.members[0], [fd])
        assert fd not in open_fds()
        assert not any(member.taken for member in place.members)


async def test_a_connection_of_another_address_reaches_no_other_worker():
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        other = Place(stack)
        _, fd = other.connection()
        place.exchange.hand_on(place.members[0], [fd])
        assert [len(member.taken) for member in place.members] == [1, 0, 0]
        place.close_taken()


def listener_fd(place):
    return os.dup(place.listener.fileno())


def file_fd(_):
    return os.open(os.devnull, os.O_RDONLY)


def datagram_fd(_):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        return sock.detach()


@pytest.mark.parametrize("make", [listener_fd, file_fd, datagram_fd])
async def test_anything_but_a_connection_is_a_violation(make):
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        fd = make(place)
        with pytest.raises(ProtocolError):
            place.exchange.hand_on(place.members[0], [fd])
        assert fd not in open_fds()


async def test_a_worker_that_was_not_told_may_not():
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        _, fd = place.connection()
        with pytest.raises(ProtocolError, match="without permission"):
            place.exchange.hand_on(place.members[1], [fd])
        assert fd not in open_fds()


@pytest.mark.parametrize("count", [0, 2])
async def test_one_descriptor_and_no_other_number(count):
    with ExitStack() as stack:
        place = Place(stack)
        await place.leave()
        fds = [place.connection()[1] for _ in range(count)]
        with pytest.raises(ProtocolError, match=f"{count} descriptors"):
            place.exchange.hand_on(place.members[0], fds)
        assert not open_fds().keys() & set(fds)
