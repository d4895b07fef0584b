"""Choices that hypothesis makes for the liars: a `tests.kit.liars.Source`."""

from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-3, 20), st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1])
)
LEAVES = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.floats(),
    st.just("x" * 7000),
)
ADDRESSES = st.one_of(
    st.just(["127.0.0.1", 0]),
    st.tuples(st.sampled_from(["127.0.0.1", "::1", "", "x"]), NUMBERS).map(list),
    st.just("/nowhere/x.sock"),
    st.just(b"/nowhere\xff"),
    st.just(b"\0everycore-lie"),
)
VALUES = st.one_of(LEAVES, LEAVES, ADDRESSES, st.lists(LEAVES, max_size=3), st.lists(ADDRESSES, max_size=2))


class FromHypothesis:
    """A `Source`."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def number(self, least: int, most: int) -> int:
        return self._data.draw(st.integers(least, most))

    def value(self) -> Any:
        return self._data.draw(VALUES)

    def data(self) -> bytes:
        return self._data.draw(st.binary(max_size=40))
