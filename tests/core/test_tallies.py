"""The combined metrics of several workers, including dead ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core.tallies import (
    Archive,
    OwnFamily,
    OwnSample,
    Together,
    encode,
    read_archive,
    read_told,
)


def family(kind, *samples, name="m", mode="all"):
    return OwnFamily(name, "help", kind, "", mode, [OwnSample(*sample) for sample in samples])


def counter(value, **labels):
    return family("counter", ("m_total", labels, value), ("m_created", labels, 100.0 + value))


def gauge(value, mode="all", **labels):
    return family("gauge", ("m", labels, value), mode=mode)


def histogram(**counts):
    """A cumulative histogram, as a worker reports it; `le_1=2` is the bucket that ends at 1."""
    buckets = [("m_bucket", {"le": name[3:].replace("_", ".")}, count) for name, count in counts.items()]
    return family("histogram", *buckets, ("m_count", {}, buckets[-1][2]), ("m_sum", {}, 1.0))


def values(families):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for one in families
        for sample in one.samples
    }


def test_counts_add_up_by_labels():
    together = Together()
    together.add([counter(2, kind="a"), counter(5, kind="b")], 1)
    together.add([counter(3, kind="a")], 2)
    assert values(together.families()) == {
        ("m_total", ("kind", "a")): 5,
        ("m_total", ("kind", "b")): 5,
        ("m_created", ("kind", "a")): 102,
        ("m_created", ("kind", "b")): 105,
    }


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("all", {("m", ("worker", "1")): 4, ("m", ("worker", "2")): 3}),
        ("liveall", {("m", ("worker", "1")): 4, ("m", ("worker", "2")): 3}),
        ("mostrecent", {("m", ("worker", "1")): 4, ("m", ("worker", "2")): 3}),
        ("sum", {("m",): 7}),
        ("livesum", {("m",): 7}),
        ("min", {("m",): 3}),
        ("livemax", {("m",): 4}),
    ],
)
def test_gauges_go_together_as_they_say(mode, wanted):
    together = Together()
    together.add([gauge(4, mode)], 1)
    together.add([gauge(3, mode)], 2)
    together.add_dead([gauge(100, mode)])
    assert values(together.families()) == wanted


def test_what_all_say_is_said_once_and_states_by_worker():
    together = Together()
    for worker in (1, 2):
        together.add([family("info", ("m_info", {"v": "1"}, 1.0))], worker)
        together.add([family("stateset", ("s", {"s": "up"}, 1.0), name="s")], worker)
    assert values(together.families()) == {
        ("m_info", ("v", "1")): 1,
        ("s", ("s", "up"), ("worker", "1")): 1,
        ("s", ("s", "up"), ("worker", "2")): 1,
    }


def test_histograms_of_other_bounds_stay_cumulative():
    together = Together()
    together.add([histogram(le_1=2, le_2=5, le_inf=6)], 2)
    together.add_dead([histogram(le_1_5=10, le_inf=11)])
    known = values(together.families())
    assert [known["m_bucket", ("le", bound)] for bound in ("1", "1.5", "2", "inf")] == [2, 12, 15, 17]
    assert known["m_count",] == 17


def test_of_two_kinds_of_one_name_the_first_counts():
    together = Together()
    together.add([counter(2)], 2)
    together.add([gauge(3)], 1)
    together.add_dead([histogram(le_inf=1)])
    assert [one.kind for one in together.families()] == ["counter"]


SAMPLES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=6)


@given(st.lists(st.tuples(SAMPLES, st.booleans()), max_size=8))
def test_what_is_kept_and_what_lives_is_all_there_was(workers):
    """Each worker counts, and dies or lives; the dead ones are added one after the other."""
    truth: dict[str, int] = {}
    archive = Archive([], [])
    alive = []
    for number, (counts, dies) in enumerate(workers, 1):
        mine: dict[str, int] = {}
        for count, kind in counts:
            mine[str(kind)] = mine.get(str(kind), 0) + count
        for kind, count in mine.items():
            truth[kind] = truth.get(kind, 0) + count
        told = [family("counter", *(("m_total", {"kind": kind}, count) for kind, count in mine.items()))]
        told.append(
            OwnFamily("h", "", "histogram", "", "all", [
                OwnSample("h_bucket", {"le": "1.0"}, sum(mine.values())),
                OwnSample("h_bucket", {"le": "+Inf"}, 2 * sum(mine.values())),
            ])
        )  # fmt: skip
        told = read_told(encode(told))
        if dies:
            fold = Together()
            fold.add_dead(told)
            fold.add_dead(archive.families, is_kept=True)
            archive = read_archive(encode(Archive([number], fold.kept())))
        else:
            alive.append((number, told))
    together = Together()
    for number, told in alive:
        together.add(told, number)
    together.add_dead(archive.families, is_kept=True)
    known = values(together.families())
    assert {key[1][1]: value for key, value in known.items() if key[0] == "m_total"} == truth
    assert known.get(("h_bucket", ("le", "1.0")), 0) == sum(truth.values())
    assert known.get(("h_bucket", ("le", "+Inf")), 0) == 2 * sum(truth.values())


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x91\x91\xa1x", encode([[1, 2, 3]]), b"\x93\x01\x02\x03"]
)
def test_what_cannot_be_read_is_an_error(payload):
    with pytest.raises(ValueError, match=r"."):
        read_told(payload)
    with pytest.raises(ValueError, match=r"."):
        read_archive(payload)
