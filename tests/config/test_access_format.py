"""The format of the access log: what it may hold, and that what was checked formats every request."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.config.access_format import ATOMS, check_format
from everycore.ops.access_log import AccessFormatter


def record(*args: object) -> logging.LogRecord:
    message = '%s - "%s %s HTTP/%s" %d'
    return logging.LogRecord("uvicorn.access", logging.INFO, "", 0, message, args, None)


REQUEST = ("127.0.0.1:4711", "GET", "/a?b=1", "1.1", 200)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('%(h)s %(l)s %(u)s "%(r)s" %(s)s', '127.0.0.1 - - "GET /a?b=1 HTTP/1.1" 200'),
        ("%(m)s %(U)s %(q)s %(H)s 100%%", "GET /a b=1 HTTP/1.1 100%"),
    ],
)
def test_lines(text, line):
    check_format(text)
    assert AccessFormatter(text).format(record(*REQUEST)) == line


def test_a_client_without_an_address():
    assert AccessFormatter("%(h)s").format(record("", *REQUEST[1:])) == "-"


def test_a_record_of_another_kind_stays_as_it_is():
    other = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "hello %s", ("you",), None)
    assert AccessFormatter("%(h)s").format(other) == "hello you"


@pytest.mark.parametrize("text", ["%(b)s", "%({x-y}i)s", "%(h)d", "%h", "100%", "% ", "%("])
def test_wrong_formats(text):
    with pytest.raises(ValueError, match=r"has no|per cent"):
        check_format(text)


@given(
    st.lists(st.sampled_from([*(f"%({name})s" for name in ATOMS), "%%", "%", "%(", ")s", "x", "%(b)s", " "]))
)
def test_what_was_checked_formats(parts):
    text = "".join(parts)
    try:
        check_format(text)
    except ValueError:
        return
    AccessFormatter(text).format(record(*REQUEST))
