"""Which worker is a client's own, and when it goes to another."""

import collections
import ipaddress
import random

import pytest

from everycore.core.lanes import COSTLY, MOST_CREDIT
from everycore.core.sticky import BOUND, MOST_WAITING, SPARE, STICKY_RECALL_AFTER, best, weight
from tests.kit.sticky_world import StickyWorld

CROWD = 10_000


def addresses(count, seed=1):
    chance = random.Random(seed)
    return [chance.randbytes(4) for _ in range(count)]


def world_of(count, batch=16):
    world = StickyWorld(recall_after=STICKY_RECALL_AFTER)
    for worker in range(1, count + 1):
        world.join(worker, batch)
    return world


def client_of(worker, slots):
    """A client whose own worker is `worker`."""
    return next(client for client in addresses(1000) if best(client, range(slots)) == worker - 1)


class TestTheHash:
    @pytest.mark.parametrize("slots", [2, 4, 8, 16, 17, 40])
    def test_clients_are_spread_evenly(self, slots):
        shares = collections.Counter(best(client, range(slots)) for client in addresses(CROWD))
        mean = CROWD / slots
        assert len(shares) == slots
        assert max(abs(share - mean) for share in shares.values()) < 4 * mean**0.5

    @pytest.mark.parametrize("network", ["10.0.0.0/16", "192.168.1.0/24"])
    def test_neighbours_are_spread_too(self, network):
        clients = [address.packed for address in ipaddress.ip_network(network)][:CROWD]
        shares = collections.Counter(best(client, range(4)) for client in clients)
        mean = len(clients) / 4
        assert max(abs(share - mean) for share in shares.values()) < 4 * mean**0.5

    @pytest.mark.parametrize("slots", [1, 4, 15, 16])
    def test_a_slot_that_comes_takes_its_share_alone(self, slots):
        before = {client: best(client, range(slots)) for client in addresses(CROWD)}
        after = {client: best(client, range(slots + 1)) for client in addresses(CROWD)}
        moved = [client for client in before if before[client] != after[client]]
        assert {after[client] for client in moved} == {slots}
        assert len(moved) / CROWD == pytest.approx(1 / (slots + 1), rel=0.2)

    def test_a_slot_that_goes_moves_its_clients_alone_and_evenly(self):
        rest = {0, 1, 3}
        before = {client: best(client, range(4)) for client in addresses(CROWD)}
        after = {client: best(client, rest) for client in addresses(CROWD)}
        assert all(before[client] == after[client] for client in before if before[client] != 2)
        shares = collections.Counter(after[client] for client in before if before[client] == 2)
        assert set(shares) == rest
        assert max(shares.values()) < 1.2 * min(shares.values())

    def test_the_order_of_the_slots_is_of_no_importance(self):
        for client in addresses(100):
            assert best(client, [5, 17, 2]) == best(client, [2, 5, 17]) == best(client, {17, 2, 5})

    def test_a_restart_moves_no_client(self):
        """Another Python changes nothing either: the values of BLAKE2 are fixed."""
        known = {0: 4070521373, 1: 3259644588, 15: 665058974, 16: 2152141465, 999: 3034582128}
        assert {slot: weight(bytes([127, 0, 0, 1]), slot) for slot in known} == known


class TestEachAtItsOwn:
    @pytest.mark.parametrize("worker", [1, 2, 3, 4])
    def test_all_connections_of_a_client_go_to_its_worker(self, worker):
        world = world_of(4)
        world.client = client_of(worker, 4)
        world.connect(10)
        world.settle()
        assert world.given == {worker: 10}

    def test_one_client_alone_has_as_many_as_a_worker_may_have_above_the_mean(self):
        """A browser that opens six connections is not moved, nor are five such browsers."""
        world = world_of(4)
        world.client = client_of(2, 4)
        for _ in range(SPARE):
            world.connect()
            world.settle()
            world.seats[2].open += 1
        assert world.given == {2: SPARE}

    def test_a_replacement_in_the_slot_has_the_clients(self):
        world = world_of(4)
        world.client = client_of(2, 4)
        world.slots[5] = 1
        world.leave(2)
        world.connect()
        world.settle()
        (elsewhere,) = world.given
        world.join(5)
        world.connect(3)
        world.settle()
        assert world.given == {elsewhere: 1, 5: 3}

    def test_in_a_reload_the_new_one_has_them_from_the_moment_it_is_there(self):
        world = world_of(2)
        world.client = client_of(1, 2)
        world.connect()
        world.settle()
        world.slots[3] = 0
        world.join(3)
        world.connect()
        world.settle()
        world.rest(1)
        world.connect()
        world.settle()
        assert world.given == {1: 1, 3: 2}

    def test_without_an_address_they_are_given_out_in_turn(self):
        world = world_of(4)
        world.client = None
        for _ in range(8):
            world.connect()
            world.settle()
        assert world.given == {1: 2, 2: 2, 3: 2, 4: 2}


class TestBound:
    def test_a_worker_has_a_quarter_more_than_the_mean_at_most(self):
        world = world_of(4)
        world.client = client_of(1, 4)
        for _ in range(4000):
            world.connect()
            worker = world.sent[-1][0]
            world.work(worker)
            world.seats[worker].open += 1
        shares = [seat.open for seat in world.seats.values()]
        assert max(shares) <= BOUND * 1000 + 1
        assert world.given[1] == max(shares)

    @pytest.mark.parametrize("lie", [-1000, 1 << 60])
    def test_what_a_worker_says_of_itself_moves_no_more_than_its_own_clients(self, lie):
        world = world_of(3)
        world.seats[1].open = lie
        for worker in (2, 3):
            world.client = client_of(worker, 3)
            world.connect(5)
            world.settle()
        assert world.given == {2: 5, 3: 5}

    def test_a_moved_client_comes_back_when_there_is_room(self):
        world = world_of(2)
        world.client = client_of(1, 2)
        world.seats[1].open = 100
        world.connect()
        world.settle()
        world.seats[1].open = 10
        world.connect()
        world.settle()
        assert world.given == {2: 1, 1: 1}


class TestAWorkerThatBlocks:
    def test_its_clients_wait_and_those_of_others_pass_them(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.client = client_of(1, 2)
        world.connect(MOST_CREDIT + 5)
        assert world.lanes.lanes[1].outstanding == MOST_CREDIT
        assert len(world.dispatcher.arrivals.queue) == 5
        world.client = client_of(2, 2)
        world.connect(10)
        world.work(2)
        assert len(world.picked_up) == 10
        world.advance(0.9 * STICKY_RECALL_AFTER)
        world.workers[1].stands_still = False
        world.settle()
        assert world.given == {1: MOST_CREDIT + 5, 2: 10}

    def test_no_more_than_so_many_wait_here(self):
        """Each is a descriptor. The rest stays in the kernel, and waits no longer than these."""
        world = world_of(2)
        world.workers[1].stands_still = True
        world.seats[2].open = 10_000  # so that the bound moves no client
        world.client = client_of(1, 2)
        world.connect(1000)
        assert len(world.dispatcher.arrivals.queue) == MOST_WAITING
        assert not world.dispatcher.orders.poll
        world.advance(1.1 * STICKY_RECALL_AFTER)
        world.settle()
        assert world.given[2] == 1000

    def test_those_that_wait_cost_the_others_nothing(self):
        """If each of them were checked in every turn, a worker that blocks would take the primary's time."""
        world = world_of(2)
        world.workers[1].stands_still = True
        world.client = client_of(1, 2)
        world.connect(40)
        asked = []

        def counted(connection):
            asked.append(connection)
            return world.clients[connection]

        world.dispatcher._client_of = counted
        world.client = client_of(2, 2)
        for _ in range(20):
            world.connect()
            world.work(2)
        assert len(world.picked_up) == 20
        assert len(asked) == 20

    def test_they_go_to_their_next_choice_once_it_was_silent_for_long(self):
        world = world_of(2)
        world.workers[1].stands_still = True
        world.client = client_of(1, 2)
        world.connect(MOST_CREDIT + 5)
        world.advance(1.01 * STICKY_RECALL_AFTER)
        world.settle()
        assert world.given[2] == MOST_CREDIT + 5
        world.connect()  # at once from now on
        assert world.given[2] == MOST_CREDIT + 6
        world.settle()
        world.workers[1].stands_still = False
        world.work(1)
        world.connect()
        world.settle()
        assert world.given[1] == MOST_CREDIT + 1

    def test_one_that_works_through_its_belt_is_not_silent(self):
        """One connection a second: the last of sixteen lies there longer than a worker may be silent."""
        world = world_of(2, batch=1)
        world.client = client_of(1, 2)
        world.connect(MOST_CREDIT)
        for _ in range(MOST_CREDIT):
            world.advance(STICKY_RECALL_AFTER / 2)
            world.read(1)
            world.acknowledge(1)
        assert world.given == {1: MOST_CREDIT}
        assert len(world.picked_up) == MOST_CREDIT

    def test_it_is_given_what_costs_much_two_at_a_time(self):
        world = world_of(2)
        world.cost = 10 * COSTLY
        world.client = client_of(1, 2)
        for _ in range(60):
            world.connect()
            world.work(1)
        world.connect(10)
        assert world.lanes.is_costly
        assert world.lanes.lanes[1].outstanding == 2
        world.settle()
        assert world.given == {1: 70}

    def test_alone_it_is_waited_for(self):
        world = world_of(1)
        world.workers[1].stands_still = True
        world.connect(3)
        world.advance(10 * STICKY_RECALL_AFTER)
        world.workers[1].stands_still = False
        world.settle()
        assert world.given == {1: 3}


def test_a_client_of_a_full_worker_goes_to_its_next_choice():
    world = world_of(2)
    world.client = client_of(1, 2)
    world.fill(1)
    world.connect(3)
    world.settle()
    assert world.given == {2: 3}
    world.join(1, 16, 2)
    world.connect(5)  # with room for two at a time
    assert world.lanes.lanes[1].outstanding == 2
    world.settle()
    assert world.given == {2: 3, 1: 5}
