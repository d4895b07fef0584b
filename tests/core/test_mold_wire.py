"""Messages of a mold, which runs the code of a program."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import mold_wire
from everycore.core.mold_wire import MoldCannotPrepare, MoldHasAnswered, decode_from_mold, encode
from everycore.errors import ProtocolError


@pytest.mark.parametrize("said", [MoldCannotPrepare("no"), MoldHasAnswered(), mold_wire.WorkerIsThere()])
def test_what_it_says_is_heard(said):
    assert decode_from_mold(encode(said)) == said


@given(st.binary(max_size=60))
def test_random_bytes_are_one_error(data):
    try:
        decode_from_mold(data)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "data",
    [
        encode(MoldCannotPrepare("xyz")).replace(b"xyz", b"x\xff\xff"),
        encode(MoldCannotPrepare("")).replace(b"text", b"test")[:-1] + b"\x91" * 4000 + b"\xc0",
    ],
    ids=["no UTF-8", "nested without end"],
)
def test_so_are_texts_that_are_none_and_nesting(data):
    with pytest.raises(ProtocolError):
        decode_from_mold(data)
