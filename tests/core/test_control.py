"""The control protocol: every line is a request, or gets one sentence that says why not."""

import json
import random

import pytest

from everycore.config.common import CommonSettings
from everycore.config.setting import fields_of
from everycore.core import control
from everycore.core.control import AskStacks, AskStatus, OrderDrain, OrderScale
from everycore.errors import ControlError
from tests.kit.mutations import control_request


def line(**fields: object) -> bytes:
    return json.dumps({"v": 1, **fields}).encode()


@pytest.mark.parametrize(
    ("sent", "request_"),
    [
        (line(op="status"), AskStatus(v=1)),
        (line(op="status", follow=True), AskStatus(v=1, follow=True)),
        (line(op="drain", worker=3), OrderDrain(v=1, worker=3)),
        (line(op="scale", by=-1), OrderScale(v=1, by=-1)),
        (line(op="stacks", worker=None), AskStacks(v=1)),
        (b' { "op" : "status" , "v" : 1 } \r', AskStatus(v=1)),
    ],
)
def test_a_request_is_read(sent, request_):
    assert control.read_request(sent) == request_
    assert control.read_request(control.request_line(request_)) == request_


@pytest.mark.parametrize(
    ("sent", "kind", "text"),
    [
        (b"", "bad_request", "this is not a request"),
        (b"status", "bad_request", "this is not a request"),
        (b"[]", "bad_request", "this is not a request"),
        (b"{}", "bad_request", "has the fields 'v' and 'op'"),
        (b'{"op": "status"}', "bad_request", "has the fields 'v' and 'op'"),
        (
            line(op="statu"),
            "bad_request",
            "there is no operation 'statu'; the operations are: drain, events,",
        ),
        (line(op="x" * 10_000), "bad_request", "..."),
        (line(op="drain"), "bad_request", "worker"),
        (line(op="drain", worker="3"), "bad_request", "worker"),
        (line(op="drain", worker=True), "bad_request", "worker"),
        (line(op="status", workers=3), "bad_request", "workers"),
        (line(op=["status"]), "bad_request", "op"),
        (b'{"v": 2, "op": "status"}', "version", "speaks version 1, not 2"),
        (b'{"v": 2, "op": "dance", "more": 1}', "version", "speaks version 1, not 2"),
        (b'{"v": "1", "op": "status"}', "bad_request", "v"),
        (b'{"v": true, "op": "status"}', "bad_request", "v"),
        (b'{"v": 1' + b"0" * 18 + b', "op": "status"}', "version", "not a large number"),
        (b"[" * 60_000, "bad_request", "this is not a request"),
        (b'{"v": 1, "op": "status", "x": ' + b"[" * 60_000, "bad_request", "this is not a request"),
        (b'{"v": 1, "op": "st\xff"}', "bad_request", "this is not a request"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_malformed_request_gets_one_sentence(sent, kind, text):
    with pytest.raises(ControlError) as caught:
        control.read_request(sent)
    assert (caught.value.kind, text in caught.value.text) == (kind, True), caught.value.text
    assert len(caught.value.text) < 400
    assert b"\n" not in control.refusal_line(caught.value)[:-1]


@pytest.mark.parametrize("count", [2_000, pytest.param(1_000_000, marks=[pytest.mark.soak])])
@pytest.mark.limit(600)
def test_whatever_comes_is_a_request_or_a_refusal(count):
    chance = random.Random(17)
    read = refused = 0
    lines: set[bytes] = set()
    for _ in range(count):
        try:
            request = control.read_request(control_request(chance))
        except ControlError as error:
            refused += 1
            lines.add(control.refusal_line(error))
        else:
            read += 1
            assert control.read_request(control.request_line(request)) == request
    assert read > count / 20
    assert refused > count / 20
    assert {json.loads(line)["error"]["kind"] for line in lines} == {"bad_request", "version"}


# Answers


@pytest.mark.parametrize(
    ("sent", "kind"),
    [(b"HTTP/1.1 400 Bad Request", "bad_answer"), (b"{}", "bad_answer"), (b'{"v": 2}', "version")],
)
def test_a_server_that_is_not_everycore_is_found_out(sent, kind):
    with pytest.raises(ControlError) as caught:
        control.read_answer(sent)
    assert caught.value.kind == kind


def test_a_later_service_may_say_more():
    answer = control.read_answer(b'{"v": 1, "ok": true, "result": {"size": 3}, "more": 1}')
    assert (answer.ok, bytes(answer.result)) == (True, b'{"size": 3}')


# Decisions


@pytest.mark.parametrize(
    ("to", "by", "size", "wanted"), [(4, None, 2, 4), (None, 1, 2, 3), (None, -1, 2, 1), (2, None, 2, 2)]
)
def test_as_many_as_asked(to, by, size, wanted):
    assert control.size_after(OrderScale(v=1, to=to, by=by), size) == wanted


@pytest.mark.parametrize(
    ("to", "by"),
    [(None, None), (1, 1), (0, None), (None, -2), (1001, None), (None, 10**30), (-(10**30), None)],
)
def test_as_many_as_cannot_be(to, by):
    with pytest.raises(ControlError) as caught:
        control.size_after(OrderScale(v=1, to=to, by=by), 2)
    assert caught.value.kind == "bad_request"


def test_the_most_workers_are_those_of_the_setting():
    [workers] = [field for field in fields_of(CommonSettings) if field.name == "workers"]
    most = control.size_after(OrderScale(v=1, to=1000), 2)
    assert workers.setting.kind.from_text(str(most)) == most
    with pytest.raises(ValueError, match="1000"):
        workers.setting.kind.from_text(str(most + 1))
