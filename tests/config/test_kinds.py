"""What each kind of setting accepts, as text and as a key of a file. Its schema says the same."""

import pytest

from everycore.config.kinds import (
    Choice,
    Count,
    Mode,
    Path,
    Seconds,
    Several,
    Size,
    Switch,
    Text,
    Variables,
)
from everycore.config.trusted import Addresses

# Text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Count(1, auto=True), "auto", "auto"),
        (Count(1, auto=True), "3", 3),
        (Count(0), "0", 0),
        (Seconds(), "0", 0.0),
        (Seconds(), "2.5", 2.5),
        (Seconds(), "1e2", 100.0),
        (Choice("red", "green"), "red", "red"),
        (Text(), "shop", "shop"),
        (Path(), "caf\udce9", "caf\udce9"),
        (Mode(), "022", 0o22),
        (Mode(), "0o660", 0o660),
        (Mode(), "7", 7),
        (Size(), "300M", 300 * 2**20),
        (Size(), "1.5gib", 3 * 2**29),
        (Size(), "314572800", 314572800),
        (Size(), "0", 0),
        (Switch(), "Yes", True),
        (Switch(), "0", False),
        (Several(Text()), "a, b", ("a", "b")),
        (Variables(), "A=1,B=x=y", {"A": "1", "B": "x=y"}),
    ],
)
def test_text(kind, text, value):
    assert kind.from_text(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        *(
            (Count(1, auto=True), text, "'auto' or a whole number")
            for text in ("0", "-1", "x", "", " 4", "1_0")
        ),
        *((Count(1, auto=True), text, "whole number") for text in ("1.0", "٣", "AUTO")),
        (Count(0, most=65535), "65536", "from 0 to 65535"),
        (Count(0), "9" * 5000, "must be a whole number"),
        (Count(1), "2147483648", "from 1 to 2147483647"),
        *((Seconds(), text, "seconds") for text in ("nan", "inf", "-inf", "-1", "x", "", "-0.1")),
        *((Seconds(), text, "a number of seconds") for text in ("1_0", " 4", "٤")),
        (Seconds(0.1), "0", "at least 0.1 seconds"),
        (Choice("red", "green"), "blue", "must be one of red, green, not 'blue'"),
        (Text(), "shop\nforged log line", "printable"),
        (Path(), "", "a path"),
        (Path(), "a\0b", "a path"),
        *((Mode(), text, "octal") for text in ("8", "1000", "x", "", "-1", "0x1f")),
        *((Size(), text, "such as 300M") for text in ("", "M", "-1M", "1.5", "3X", "1e9")),
        *((Size(), text, "at least 1M") for text in ("300", "1", "1023K")),
        (Switch(), "maybe", "true or false"),
        (Variables(), "A", "NAME=VALUE"),
        (Variables(), "=1", "NAME=VALUE"),
    ],
)
def test_wrong_text(kind, text, problem):
    with pytest.raises(ValueError, match=problem):
        kind.from_text(text)


# Keys


@pytest.mark.parametrize(
    ("kind", "held", "value"),
    [
        (Count(1, auto=True), "auto", "auto"),
        (Count(1), 3, 3),
        (Seconds(), 3, 3.0),
        (Mode(), 0o22, 0o22),
        (Mode(), "022", 0o22),
        (Size(), "300M", 300 * 2**20),
        (Size(), 2**20, 2**20),
        (Size(), 0, 0),
        (Switch(), True, True),
        (Several(Text()), "one", ("one",)),
        (Addresses(Text()), "one, two", ("one", "two")),
        (Several(Text()), ["one", "two"], ("one", "two")),
        (Variables(), {"A": "1"}, {"A": "1"}),
    ],
)
def test_key(kind, held, value):
    assert kind.from_key(held) == value


def test_an_option_may_have_several_addresses_and_be_repeated():
    assert Addresses(Text()).from_texts(["one", "two, three"]) == ("one", "two", "three")


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        (Count(1), True),
        (Count(1), 1.0),
        (Count(1), 10**30),
        (Count(1), "3"),
        (Count(1, auto=True), "3x"),
        (Seconds(), True),
        (Seconds(), "3"),
        (Seconds(), float("nan")),
        (Seconds(), 10**400),
        (Mode(), True),
        (Mode(), 0o1000),
        *((Size(), held) for held in (True, 300, -1, 1.5, "300", None)),
        (Choice("red"), 3),
        (Text(), 3),
        (Path(), 3),
        (Switch(), 1),
        (Switch(), "true"),
        (Several(Text()), [1]),
        (Addresses(Text()), 1),
        (Variables(), ["A=1"]),
        (Variables(), {"A": 1}),
    ],
)
def test_wrong_key(kind, held):
    with pytest.raises(ValueError, match="must be"):
        kind.from_key(held)


# Schemas


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Count(1), {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}),
        (Count(0, most=9), {"type": "integer", "minimum": 0, "maximum": 9}),
        (Seconds(0.1), {"type": "number", "minimum": 0.1}),
        (Choice("red"), {"enum": ["red"]}),
        (Switch(), {"type": "boolean"}),
    ],
)
def test_schema(kind, schema):
    assert kind.schema() == schema


def test_a_path_is_called_what_it_stands_for():
    with pytest.raises(ValueError, match='must be a path, or "off" for none, not False'):
        Path("PATH|off", 'a path, or "off" for none').from_key(False)
