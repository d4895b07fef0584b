"""The format of the access log: what it may contain, and that a checked format fits every request."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.config.access_format import ATOMS, HEADER_ATOMS, check_format, on_one_line
from everycore.ops.access_log import AccessFormatter, Answered

ANSWERED = Answered(
    client="127.0.0.1:4711",
    method="GET",
    target="/a?b=1",
    version="1.1",
    status=200,
    seconds=1.2345678,
    size=12,
    request_id="abc-1",
    request_headers=[(b"user-agent", b'curl "8"\x1b'), (b"referer", b"http://x/")],
    answer_headers=[(b"Content-Type", b"text/plain")],
)


def record(*args: object, answered: Answered | None = None) -> logging.LogRecord:
    message = '%s - "%s %s HTTP/%s" %d'
    made = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, message, args, None)
    if answered is not None:
        made.answered = answered
    return made


REQUEST = ("127.0.0.1:4711", "GET", "/a?b=1", "1.1", 200)


def line(text: str, made: logging.LogRecord) -> str:
    check_format(text)
    return AccessFormatter(text, worker=3).format(made)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('%(h)s %(l)s %(u)s "%(r)s" %(s)s', '127.0.0.1 - - "GET /a?b=1 HTTP/1.1" 200'),
        ("%(m)s %(U)s %(q)s %(H)s 100%%", "GET /a b=1 HTTP/1.1 100%"),
        ("%(B)s %(b)s %(T)s %(L)s %(M)s %(D)s", "12 12 1 1.234568 1234 1234567"),
        ('"%(f)s" "%(a)s"', r'"http://x/" "curl \"8\"\x1b"'),
        ("%({Referer}i)s %({content-type}o)s %({x-none}i)s", "http://x/ text/plain -"),
        ("%(worker)s %(request_id)s", "3 abc-1"),
    ],
)
def test_lines(text, wanted):
    assert line(text, record(*REQUEST, answered=ANSWERED)) == wanted


def test_what_the_engine_answers_by_itself_has_no_duration():
    assert (
        line("%(s)s %(D)s %(T)s %(L)s %(b)s %(request_id)s %({a}i)s", record(*REQUEST)) == "200 - - - - - -"
    )


def test_a_client_without_an_address():
    assert line("%(h)s", record("", *REQUEST[1:])) == "-"


def test_a_record_of_another_kind_stays_as_it_is():
    other = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "hello %s", ("you",), None)
    assert AccessFormatter("%(h)s").format(other) == "hello you"


@pytest.mark.parametrize("text", ["%(x)s", "%({x-y}e)s", "%({}i)s", "%(h)d", "%h", "100%", "% ", "%("])
def test_wrong_formats(text):
    with pytest.raises(ValueError, match=r"must not contain|per cent"):
        check_format(text)


ATOM = st.sampled_from([*ATOMS, *HEADER_ATOMS]).map(lambda name: f"%({name})s")


@given(st.lists(ATOM | st.sampled_from(["%%", "%", "%(", ")s", "x", "%(x)s", " "])), st.booleans())
def test_what_was_checked_formats(parts, is_told_by_engine):
    text = "".join(parts)
    try:
        check_format(text)
    except ValueError:
        return
    line(text, record(*REQUEST, answered=None if is_told_by_engine else ANSWERED))


@given(st.text())
def test_what_was_sent_ends_neither_a_line_nor_a_quotation(text):
    found = on_one_line(text)
    assert found.isprintable()
    assert found.replace("\\\\", "").replace('\\"', "").count('"') == 0
