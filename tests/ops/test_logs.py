"""Where the log goes, by which loggers, and what happens if a file is missing."""

import io
import json
import logging
import os

import pytest

from everycore.ops import logs
from everycore.ops.access_log import REQUESTS, Answered, request_id, tell_once
from everycore.ops.log_formats import PRIMARY, Speaker
from everycore.system import logfiles

WORKER = Speaker("worker", 3, 1, 0)


pytestmark = pytest.mark.usefixtures("loggers_as_before")


def say(text: str, name: str = "everycore.ops") -> None:
    logging.getLogger(name).warning("%s", text)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "there" / "log"


@pytest.fixture
def folder(path):
    path.parent.mkdir()
    return path.parent


@pytest.mark.usefixtures("folder")
def test_both_loggers_go_to_the_file_and_the_root_stays(path):
    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(PRIMARY, "info", file=str(path), stream=stream)
    say("one")
    say("two", "uvicorn.error")
    assert [line.split(" ", 3)[3] for line in path.read_text().splitlines()] == [
        "[primary] WARNING one",
        "[primary] WARNING two",
    ]
    assert stream.getvalue() == ""
    assert logging.getLogger().handlers == before


def test_a_dash_is_the_stream():
    stream = io.StringIO()
    logs.configure(PRIMARY, "info", file="-", stream=stream)
    say("one")
    assert stream.getvalue().endswith("[primary] WARNING one\n")


def test_a_file_that_cannot_be_opened_changes_nothing(path):
    stream = io.StringIO()
    logs.configure(PRIMARY, "info", stream=stream)
    for access_log in (logs.NO_ACCESS_LOG, logs.AccessLog(is_on=True, file=str(path))):
        with pytest.raises(FileNotFoundError):
            logs.configure(PRIMARY, "error", format="json", file=str(path), access_log=access_log)
    say("one")
    assert stream.getvalue().endswith("[primary] WARNING one\n")


def test_a_worker_whose_file_cannot_be_opened_logs_to_stderr_until_it_can(path, tmp_path):
    stream = (tmp_path / "stderr").open("w+", buffering=1)
    with stream:
        logs.configure(WORKER, "info", file=str(path), stream=stream, is_lenient=True)
        say("one")
        path.parent.mkdir()
        logfiles.reopen()
        say("two")
        logs.close_files()
        assert not stream.closed
        stream.seek(0)
        told = [line.split(" ", 3)[3] for line in stream.read().splitlines()]
    assert told == [
        f"[worker 3] WARNING cannot write {str(path)!r}: no such file or directory; its lines go to stderr",
        "[worker 3] WARNING one",
    ]
    assert path.read_text().endswith("[worker 3] WARNING two\n")


@pytest.mark.usefixtures("folder")
def test_once_more_closes_the_file_of_before(path, tmp_path):
    logs.configure(PRIMARY, "info", file=str(path))
    opened = set(os.listdir("/proc/self/fd"))
    for name in ("second", "third"):
        logs.configure(PRIMARY, "info", file=str(tmp_path / name))
        say(name)
        assert len(os.listdir("/proc/self/fd")) == len(opened)
        assert (tmp_path / name).read_text().endswith(f"{name}\n")
    assert path.read_text() == ""


@pytest.mark.parametrize("kind", ["primary", "worker"])
@pytest.mark.usefixtures("folder")
def test_a_folder_that_is_gone_is_told_by_the_primary_alone(path, kind, tmp_path):
    logs.configure(Speaker(kind, 3), "info", file=str(path))
    path.parent.rename(tmp_path / "gone")
    logfiles.reopen()
    say("later")
    lines = (tmp_path / "gone" / "log").read_text().splitlines()
    assert ["so the old file stays in use" in line for line in lines] == (
        [True, False] if kind == "primary" else [False]
    )


# Requests


def answered() -> Answered:
    return Answered(
        client="127.0.0.1:1", method="GET", target="/", version="1.1", status=200, seconds=0.5, size=2,
        request_id="abc",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (logs.AccessLog(is_on=True), '[worker 3] INFO 127.0.0.1:1 - "GET / HTTP/1.1" 200 500.0ms abc'),
        (logs.AccessLog(is_on=True, format="%(s)s %(worker)s"), "200 3"),
        (logs.AccessLog(), None),
    ],
)
@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.usefixtures("folder")
def test_requests_go_where_all_else_goes(path, given, end, has_file):
    stream = io.StringIO()
    logs.configure(WORKER, "critical", file=str(path) if has_file else None, access_log=given, stream=stream)
    answered().log(3)
    said = path.read_text() if has_file else stream.getvalue()
    assert said.endswith(f"{end}\n") if end else said == ""


@pytest.mark.usefixtures("folder")
def test_requests_with_a_file_of_their_own(path):
    stream = io.StringIO()
    own = logs.AccessLog(is_on=True, file=str(path))
    logs.configure(WORKER, "info", format="json", access_log=own, stream=stream)
    answered().log(3)
    say("one")
    assert json.loads(path.read_text())["request_id"] == "abc"
    assert json.loads(stream.getvalue())["message"] == "one"


@pytest.mark.usefixtures("folder")
def test_requests_on_stderr_beside_a_file(path):
    stream = io.StringIO()
    own = logs.AccessLog(is_on=True, file="-")
    logs.configure(WORKER, "info", file=str(path), access_log=own, stream=stream)
    answered().log(3)
    assert "200 500.0ms abc" in stream.getvalue()
    assert path.read_text() == ""


def test_the_engines_own_line_about_a_request_is_left_out():
    stream = io.StringIO()
    logs.configure(WORKER, "info", access_log=logs.AccessLog(is_on=True), stream=stream)
    for _ in range(2):
        tell_once(3)
    of_engine = logging.getLogger(REQUESTS)
    assert len(of_engine.filters) == 1
    of_engine.info('%s - "%s %s HTTP/%s" %d', "", "GET", "/", "1.1", 503)  # nothing else logs that one
    token = request_id.set("abc")
    try:
        of_engine.info('%s - "%s %s HTTP/%s" %d', "", "GET", "/", "1.1", 200)
        answered().log(3)
    finally:
        request_id.reset(token)
    assert [line.split('" ')[1] for line in stream.getvalue().splitlines()] == ["503", "200 500.0ms abc"]
