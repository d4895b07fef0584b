"""The book of listeners: which request shares, binds or is refused, with which index and alias."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from everycore.core.listeners import (
    EADDRINUSE,
    MOST_HELD,
    OTHER_USER,
    BindNew,
    Conflict,
    ListenerBook,
    ListenKey,
    Listing,
    ShareExisting,
)

INET, INET6, UNIX = 2, 10, 1
STREAM, DGRAM = 1, 2


def key(port: int | str, host: str = "127.0.0.1", **more) -> ListenKey:
    if isinstance(port, str):
        return ListenKey(port, UNIX, STREAM, **more)
    return ListenKey((host, port), INET, STREAM, **more)


class Entry:
    """A listener, as the book knows it."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.id, self.key, self.real = listing.id, listing.key, listing.real
        self.holders: set[int] = set()

    def holds(self, worker: int) -> bool:
        return worker in self.holders


class Primary:
    """Binds as the book says; real ports count up from 40000."""

    def __init__(self) -> None:
        self.book: ListenerBook[Entry] = ListenerBook()
        self._next_port = 40000

    def listen(self, worker: int, what: ListenKey, *, v6only: bool = False) -> Entry | None:
        answer = self.book.ask(worker, what, v6only=v6only)
        if isinstance(answer, Conflict):
            assert answer.errno == errno.EADDRINUSE == EADDRINUSE
            return None
        if isinstance(answer, ShareExisting):
            entry = answer.listener
        else:
            assert isinstance(answer, BindNew)
            real = answer.key.address
            if answer.key.any_port:
                assert isinstance(real, tuple)
                while any(entry.real == (real[0], self._next_port) for entry in self.book):
                    self._next_port += 1  # as the kernel, which skips ports in use
                real = (real[0], self._next_port)
                self._next_port += 1
            entry = Entry(self.book.number(answer.key, v6only=v6only, real=real))
            self.book.add(entry)
        assert worker not in entry.holders
        entry.holders.add(worker)
        return entry

    def close(self, worker: int, entry: Entry) -> None:
        entry.holders.discard(worker)
        if not entry.holders:
            self.book.remove(entry)


class TestFixedAddresses:
    def test_workers_share_and_one_worker_twice_is_refused(self):
        primary = Primary()
        first = primary.listen(1, key(8000))
        assert primary.listen(2, key(8000)) is first
        assert primary.listen(1, key(8000)) is None
        assert len(primary.book) == 1

    def test_it_may_listen_again_after_it_closed(self):
        primary = Primary()
        first = primary.listen(1, key(8000))
        assert first
        primary.listen(2, key(8000))
        primary.close(1, first)
        assert primary.listen(1, key(8000)) is first

    def test_a_new_one_after_the_last_closed(self):
        primary = Primary()
        first = primary.listen(1, key(8000))
        assert first
        primary.close(1, first)
        second = primary.listen(1, key(8000))
        assert second
        assert second.id == first.id + 1
        assert primary.book.get(first.id) is None
        assert primary.book.get(second.id) is second

    @pytest.mark.parametrize(
        "other",
        [
            key(8001),
            key(8000, "127.0.0.2"),
            replace(key(8000), kind=DGRAM),
            replace(key(8000), family=INET6),
            key("/run/a"),
            ListenKey(None, INET, STREAM, fd=3),
        ],
        ids=["port", "host", "kind", "family", "unix", "fd"],
    )
    def test_another_key_is_another_listener(self, other):
        primary = Primary()
        first, second = primary.listen(1, key(8000)), primary.listen(1, other)
        assert first
        assert second
        assert first is not second
        assert primary.book.held_by(1) == [first, second]

    def test_unix_paths_and_descriptors_are_shared_by_equality(self):
        primary = Primary()
        for what in (
            key("/run/a"),
            ListenKey(b"\0abstract", UNIX, STREAM),
            ListenKey(None, INET, STREAM, fd=7),
        ):
            assert primary.listen(1, what) is primary.listen(2, what)
            assert primary.listen(2, what) is None

    def test_v6only_must_agree(self):
        primary = Primary()
        what = ListenKey(("::", 8000, 0, 0), INET6, STREAM)
        first = primary.listen(1, what, v6only=True)
        assert primary.listen(2, what, v6only=False) is None
        assert primary.listen(2, what, v6only=True) is first

    def test_asking_changes_nothing(self):
        book: ListenerBook[Entry] = ListenerBook()
        for _ in range(3):
            assert book.ask(1, key(0)) == BindNew(key(0))
            assert book.ask(1, key(8000)) == BindNew(key(8000))
        assert len(book) == 0

    def test_the_index_that_is_asked_for_is_ignored(self):
        assert ListenerBook().ask(1, key(8000, index=5)) == BindNew(key(8000))
        assert ListenerBook().ask(1, key(0, index=5)) == BindNew(key(0))


class TestPortZero:
    def test_the_nth_of_each_worker_is_the_nth_port(self):
        primary = Primary()
        of = {worker: [primary.listen(worker, key(0)) for _ in range(3)] for worker in (1, 2, 3)}
        assert of[1] == of[2] == of[3]
        assert len({entry.id for entry in of[1] if entry}) == 3
        assert [entry.key.index for entry in of[1] if entry] == [0, 1, 2]

    def test_a_worker_may_count_those_itself_that_it_has_closed(self):
        primary = Primary()
        closed, served = primary.listen(1, key(0)), primary.listen(1, key(0))
        assert closed
        assert served
        primary.close(1, closed)
        assert primary.book.ask(2, key(0), least=0) == BindNew(key(0))
        assert primary.book.ask(2, key(0), least=1) == ShareExisting(served)

    def test_the_smallest_index_not_in_use_is_taken_again(self):
        primary = Primary()
        mine = [primary.listen(1, key(0)) for _ in range(3)]
        others = [primary.listen(2, key(0)) for _ in range(3)]
        assert mine == others
        assert mine[1]
        primary.close(1, mine[1])
        assert primary.listen(1, key(0)) is mine[1]
        fourth = primary.listen(1, key(0))
        assert fourth
        assert fourth.key.index == 3

    def test_an_index_that_everybody_closed_is_bound_anew(self):
        primary = Primary()
        first, second = (primary.listen(1, key(0)) for _ in range(2))
        assert first
        assert second
        primary.close(1, first)
        again = primary.listen(1, key(0))
        assert again
        assert again is not first
        assert again.key.index == 0
        assert again.real != first.real

    def test_hosts_and_families_count_by_themselves(self):
        primary = Primary()
        a, b = primary.listen(1, key(0)), primary.listen(1, key(0, "127.0.0.2"))
        assert a
        assert b
        assert a.key.index == b.key.index == 0
        assert a is not b


class TestAliases:
    def test_a_port_that_zero_became_can_be_asked_for_by_number(self):
        primary = Primary()
        first = primary.listen(1, key(0))
        assert first
        assert first.real == ("127.0.0.1", 40000)
        assert primary.listen(2, key(40000)) is first
        assert primary.listen(2, key(40000)) is None
        assert primary.listen(1, key(40000)) is None  # it holds it already, by its other name

    def test_a_worker_that_came_by_the_number_holds_the_index_too(self):
        primary = Primary()
        first = primary.listen(1, key(0))
        assert first
        primary.listen(2, key(40000))
        second = primary.listen(2, key(0))
        assert second
        assert second is not first
        assert second.key.index == 1

    def test_not_of_another_family_or_kind(self):
        primary = Primary()
        first = primary.listen(1, key(0))
        assert isinstance(primary.book.ask(2, replace(key(40000), family=INET6)), BindNew)
        assert isinstance(primary.book.ask(2, replace(key(40000), kind=DGRAM)), BindNew)
        assert isinstance(primary.book.ask(2, key(40000, "0.0.0.0")), BindNew)
        assert primary.listen(2, key(40000)) is first


class Histories(RuleBasedStateMachine):
    """Workers listen and close at random; a plain model knows what each holds."""

    listens = Bundle("listens")

    def __init__(self) -> None:
        super().__init__()
        self.primary = Primary()
        self.held: dict[int, list[Entry]] = {}

    keys = st.sampled_from(
        [
            key(0),
            key(0, "127.0.0.2"),
            key(8000),
            key(40000),
            key(40001),
            key("/a"),
            ListenKey(None, 2, 1, fd=5),
        ]
    )

    @rule(target=listens, worker=st.integers(1, 4), what=keys)
    def listen(self, worker, what):
        mine = self.held.setdefault(worker, [])
        # What it holds at this address: a request is refused only for what it holds already.
        conflict = not what.any_port and any(
            entry.key == what or (what.fd is None and entry.real == what.address) for entry in mine
        )
        before = len(self.primary.book)
        entry = self.primary.listen(worker, what)
        assert (entry is None) == conflict
        if entry is None:
            assert len(self.primary.book) == before
            return None
        if what.any_port:
            indexes = {e.key.index for e in mine if e.key.any_port and e.key.address == what.address}
            assert entry.key.index == min(set(range(len(indexes) + 1)) - indexes)
        else:
            assert entry.key == what or entry.real == what.address
        mine.append(entry)
        return worker, entry

    @rule(held=listens)
    def close(self, held):
        if held is not None and held[1] in self.held[held[0]]:
            self.held[held[0]].remove(held[1])
            self.primary.close(*held)

    @rule(worker=st.integers(1, 4))
    def die(self, worker):
        for entry in self.primary.book.held_by(worker):
            self.primary.close(worker, entry)
        self.held[worker] = []

    @invariant()
    def the_book_is_what_is_held(self):
        for worker, entries in self.held.items():
            assert set(map(id, self.primary.book.held_by(worker))) == set(map(id, entries))
        assert len(self.primary.book) == len({id(e) for entries in self.held.values() for e in entries})
        keys = [entry.key for entry in self.primary.book]
        assert len(set(keys)) == len(keys)


TestHistories = Histories.TestCase


@given(st.integers(1, 65535), st.integers(0, 5))
def test_only_port_zero_is_any_port(port, index):
    assert not key(port, index=index).any_port
    assert key(0, index=index).any_port
    assert not key("0").any_port
    assert not ListenKey(None, INET, STREAM, fd=0).any_port


class TestUsers:
    def test_workers_of_two_users_share_nothing(self):
        primary = Primary()
        assert primary.listen(1, key(8000))
        assert primary.listen(2, key(8000, user=7)) is None
        answer = primary.book.ask(2, key(8000, user=7))
        assert answer == Conflict(EADDRINUSE, OTHER_USER)

    def test_not_even_where_one_turns_out_to_be(self):
        primary = Primary()
        first = primary.listen(1, key(0))
        assert first
        assert isinstance(first.real, tuple)
        assert primary.listen(2, key(first.real[1], user=7)) is None
        assert primary.book.is_of_others(key(0, user=7), first.real)
        assert not primary.book.is_of_others(key(0), first.real)
        assert not primary.book.is_of_others(key(0, user=7), ("127.0.0.1", 1))

    def test_each_has_free_ports_of_its_own(self):
        primary = Primary()
        first = primary.listen(1, key(0))
        assert primary.listen(2, key(0, user=7)) is not first
        assert primary.listen(3, key(0)) is first


def test_a_worker_holds_so_many_and_no_more():
    primary = Primary()
    for port in range(MOST_HELD):
        assert primary.listen(1, key(9000 + port))
    for wanted in (key(0), key(80), key("/run/a")):
        answer = primary.book.ask(1, wanted)
        assert isinstance(answer, Conflict)
        assert answer.errno == errno.EMFILE
        assert str(MOST_HELD) in answer.why
    assert primary.listen(2, key(9000))
