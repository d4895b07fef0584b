"""Which ids of clients are accepted, and what replaces the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core.request_ids import HEADER, MOST_LETTERS, accepted, with_id


@pytest.mark.parametrize(
    "value",
    [b"x", b"4bf92f35-77b3-4da6-a3ce-929d0e0e4736", b"Root=1-67891233-abc", b"a" * MOST_LETTERS, b"a/b+c=="],
)
def test_an_id_of_the_client_is_taken(value):
    assert accepted([(b"host", b"y"), (HEADER, value)]) == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a b",
        b'a"b',
        b"a\nb",
        b"a\n",
        b"\x1b[31m",
        b"a\x85",
        b"\xff",
        b"a" * (MOST_LETTERS + 1),
        b"\\",
    ],
)
def test_one_that_is_not_fit_is_not(value):
    assert accepted([(HEADER, value)]) is None


def test_without_one_and_with_several():
    assert accepted([]) is None
    assert accepted([(HEADER, b"a"), (HEADER, b"b")]) is None


@given(st.binary(max_size=200))
def test_what_is_taken_does_no_harm_to_a_line(value):
    found = accepted([(HEADER, value)])
    if found is not None:
        assert found.isascii()
        assert found.isprintable()
        assert not set(found) & set("\"'\\ <>")
        assert 0 < len(found) <= MOST_LETTERS


def test_the_application_finds_one_id():
    headers = [(HEADER, b"a"), (b"host", b"y"), (HEADER, b"b")]
    assert with_id(headers, "c") == [(b"host", b"y"), (HEADER, b"c")]
