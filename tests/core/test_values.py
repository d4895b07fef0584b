"""What may be sent and what may not, and that the error says where."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core import values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner) | st.tuples(inner, inner)
)


def as_received(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [as_received(item) for item in value]
    if isinstance(value, dict):
        return {key: as_received(item) for key, item in value.items()}
    return value


def types(value: Any) -> Any:
    if isinstance(value, list):
        return [types(item) for item in value]
    if isinstance(value, dict):
        return [(type(key), types(item)) for key, item in value.items()]
    return type(value)


@given(VALUES)
def test_what_goes_in_comes_out(value):
    expected = as_received(value)
    result = values.decode(values.encode(value))
    assert result == expected
    assert types(result) == types(expected)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Ratio(float):
    pass


class Raw(bytes):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Record:
    field: int = 1


class Struct(msgspec.Struct):
    field: int = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Text("a"), "a"),
        (Number(3), 3),
        (Ratio(2.5), 2.5),
        (Raw(b"x"), b"x"),
        (Point(1, 2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[Text("b")]), {"a": ["b"]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_are_sent_as_what_they_extend(value, expected):
    result = values.decode(values.encode(value))
    assert result == expected
    assert types(result) == types(expected)


REFUSED = [
    {1},
    frozenset(),
    bytearray(b"x"),
    memoryview(b"x"),
    1j,
    object(),
    Colour.RED,
    Level.LOW,
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.timedelta(1),
    decimal.Decimal(1),
    uuid.UUID(int=1),
    Record(),
    Struct(),
    Struct,
    len,
    range(3),
    collections.UserDict(),
    msgspec.msgpack.Ext(1, b"x"),
    msgspec.Raw(b"\xc0"),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: f"{type(value).__name__}-{str(value)[:8]}")
def test_anything_else_is_refused_wherever_it_stands(value):
    for message, path in (
        (value, "message"),
        ([value], "message[0]"),
        ({"a": [1, "b", value]}, "message['a'][2]"),
        (({"a": 1}, {3: (value,)}), "message[1][3][0]"),
    ):
        with pytest.raises(TypeError) as caught:
            values.encode(message)
        assert str(caught.value) == f"{path}: {type(value).__name__} is not a value that can be sent"


@pytest.mark.parametrize("key", [(1, 2), Colour.RED, Level.LOW, Text("a"), Number(1), frozenset()], ids=repr)
def test_keys_are_plain(key):
    with pytest.raises(TypeError, match=r"^message\['a'\]: key \.\.\.: .* is not a key that can be sent$"):
        values.encode({"a": {key: 1}})


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, Number(2**70)])
def test_large_ints_overflow_and_say_where(number):
    with pytest.raises(OverflowError, match=r"^message\['n'\]\[1\]: an int of more than 64 bits"):
        values.encode({"n": [0, number]})
    with pytest.raises(OverflowError, match=r"^message: an int"):
        values.encode(number)


def test_the_limits_of_64_bits_pass():
    for number in (-(2**63), 2**63, 2**64 - 1):
        assert values.decode(values.encode(number)) == number


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("\ud800", "message:"),
        ({"a": ["ok", "x\udfff"]}, r"message\['a'\]\[1\]:"),
        ({"\ud800": 1}, r"message: key '\\ud800':"),
    ],
    ids=["alone", "nested", "key"],
)
def test_lone_surrogates_are_refused(message, path):
    with pytest.raises(ValueError, match=f"^{path} a str with a lone surrogate can't be sent"):
        values.encode(message)


def test_a_list_that_contains_itself_is_refused():
    loop: list[Any] = [1]
    loop += [loop, loop]
    with pytest.raises(ValueError, match=r"^message\['a'\]\[1\]: a list that contains itself"):
        values.encode({"a": loop})
    turn: dict[str, Any] = {}
    turn["x"] = [turn]
    with pytest.raises(ValueError, match=r"^message\['x'\]\[0\]: a dict that contains itself"):
        values.encode(turn)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_limited_and_the_limit_passes():
    deepest = nested(values.MAX_DEPTH)
    assert values.decode(values.encode(deepest)) == deepest
    for depth in (values.MAX_DEPTH + 2, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {values.MAX_DEPTH} levels deep"):
            values.encode(nested(depth))


def test_a_value_used_twice_is_not_a_circle():
    shared = [1]
    assert values.decode(values.encode([shared, {"a": shared}])) == [[1], {"a": [1]}]


@given(st.binary())
def test_random_bytes_are_a_decode_error_or_a_value(body):
    try:
        values.decode(body)
    except values.DecodeError:
        pass


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\xa1\xff", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc7\x01\x05a", b"\x01\x01"],
)
def test_bad_bodies_are_decode_errors(body):
    with pytest.raises(values.DecodeError):
        values.decode(body)


def test_pickle_takes_anything_picklable():
    for value in ({1, 2}, 2**100, Colour.RED, Record(3)):
        assert values.decode(values.encode(value, "pickle"), "pickle") == value
    with pytest.raises(Exception, match="pickle"):
        values.encode(lambda: None, "pickle")
