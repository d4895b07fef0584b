"""How a record is written: as text with its zone, and as one line of JSON."""

import json
import logging
import sys
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.ops.access_log import REQUESTS, Answered, request_id
from everycore.ops.log_formats import PRIMARY, Speaker, _second, formatter

WORKER = Speaker("worker", 3, 1, 2)
#: 2023-11-14 22:13:20 UTC.
MOMENT = 1_700_000_000.25


@pytest.fixture
def zone(monkeypatch):
    """The local time zone is 5:30 hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XST-05:30")
    time.tzset()
    _second.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    _second.cache_clear()


def record(message="hello %s", *args, name="everycore.ops", level=logging.INFO, **more):
    made = logging.LogRecord(name, level, __file__, 1, message, args, more.pop("exc_info", None))
    made.created, made.msecs = MOMENT, 250.0
    vars(made).update(more)
    return made


def answered(**more):
    given: dict[str, Any] = {
        "client": "10.0.0.1:5", "method": "GET", "target": "/a?b=1", "version": "1.1", "status": 200,
        "seconds": 0.0123456, "size": 7, "request_id": "abc",
    }  # fmt: skip
    return Answered(**given | more)


def of_request(known):
    args = (known.client, known.method, known.target, known.version, known.status)
    return record('%s - "%s %s HTTP/%s" %d', *args, name=REQUESTS, answered=known)


def as_json(made, speaker=WORKER, **more):
    line = formatter("json", speaker, **more).format(made)
    assert "\n" not in line
    assert line.isascii()
    return json.loads(line)


@pytest.fixture
def failed():
    try:
        raise ValueError("a\nb")
    except ValueError:
        return sys.exc_info()


@pytest.mark.usefixtures("zone")
def test_text():
    said = formatter("text", WORKER).format(record("hello %s", "you"))
    assert said == "2023-11-15 03:43:20,250 +0530 [worker 3] INFO hello you"


@pytest.mark.usefixtures("zone")
def test_the_fields_of_json():
    assert as_json(record("hello %s", "you")) == {
        "time": "2023-11-15T03:43:20.250+05:30",
        "level": "info",
        "logger": "everycore.ops",
        "process": "worker",
        "worker": 3,
        "slot": 1,
        "generation": 2,
        "pid": logging.LogRecord("", 0, "", 0, "", (), None).process,
        "message": "hello you",
    }
    found = datetime.fromisoformat(as_json(record("x"))["time"])
    assert found.utcoffset() == timedelta(hours=5, minutes=30)


@pytest.mark.parametrize(
    ("speaker", "label", "fields"),
    [
        (PRIMARY, "primary", {"process": "primary"}),
        (Speaker("alone"), "everycore", {"process": "alone"}),
        (Speaker("worker", 1, 0, 0), "worker 1", {"process": "worker", "worker": 1, "slot": 0}),
    ],
)
def test_a_record_names_its_process(speaker, label, fields):
    assert f" [{label}] INFO x" in formatter("text", speaker).format(record("x"))
    assert fields.items() <= as_json(record("x"), speaker).items()


def test_a_traceback_is_one_record(failed):
    found = as_json(record("it failed\n", level=logging.ERROR, exc_info=failed, stack_info="Stack:\n  x"))
    assert (found["message"], found["level"]) == ("it failed", "error")
    assert found["exception_type"] == "ValueError"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: a\nb")
    assert found["stack"] == "Stack:\n  x"


def test_the_request_that_something_is_said_of():
    token = request_id.set("abc")
    try:
        assert as_json(record("x"))["request_id"] == "abc"
    finally:
        request_id.reset(token)
    assert "request_id" not in as_json(record("x"))


@given(st.text(), st.text())
def test_json_is_a_line_whatever_it_holds(message, agent):
    headers = [(b"user-agent", agent.encode("utf-8", "surrogatepass"))]
    assert as_json(record("%s", message))["message"] == message.rstrip("\n")
    known = answered(request_headers=headers)
    assert as_json(of_request(known))["user_agent"].encode("latin-1") == headers[0][1]


# Requests


@pytest.mark.parametrize(("complete", "end"), [(True, "abc"), (False, "abc incomplete")])
def test_a_request_in_text(complete, end):
    said = formatter("text", WORKER).format(of_request(answered(is_complete=complete)))
    assert said.partition("] ")[2] == f'INFO 10.0.0.1:5 - "GET /a?b=1 HTTP/1.1" 200 12.3ms {end}'


def test_a_request_in_json():
    headers = [(b"referer", b"http://x/"), (b"user-agent", b"curl")]
    found = as_json(of_request(answered(request_headers=headers)))
    wanted = {
        "logger": "uvicorn.access",
        "message": '10.0.0.1:5 - "GET /a?b=1 HTTP/1.1" 200',
        "client": "10.0.0.1:5",
        "method": "GET",
        "path": "/a",
        "query": "b=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "duration_ms": 12.346,
        "bytes": 7,
        "complete": True,
        "request_id": "abc",
        "referer": "http://x/",
        "user_agent": "curl",
    }
    assert wanted.items() <= found.items()
    assert as_json(of_request(answered(is_websocket=True)))["protocol"] == "WebSocket"


def test_a_request_that_the_engine_answers_by_itself():
    found = as_json(record('%s - "%s %s HTTP/%s" %d', "", "GET", "/a?b", "1.1", 503, name=REQUESTS))
    assert {"method": "GET", "path": "/a", "query": "b", "status": 503}.items() <= found.items()
    assert found.keys().isdisjoint({"client", "duration_ms", "request_id"})


@pytest.mark.parametrize("value", [b"/a", object(), {1}, "\udcff"], ids=["bytes", "object", "set", "no text"])
def test_a_request_record_of_another_logger(value):
    found = as_json(record("%s %s %s %s %s", "a", value, "/", "1.1", value, name=REQUESTS))
    assert found["path"] == "/"


def test_a_format_of_gunicorn_is_that_of_requests_alone():
    made = of_request(answered())
    assert formatter("text", WORKER, "%(s)s %(M)s").format(made) == "200 12"
    assert as_json(made, access_format="%(s)s %(M)s")["message"] == "200 12"
    assert formatter("text", WORKER, "%(s)s").format(record("x")).endswith("[worker 3] INFO x")
