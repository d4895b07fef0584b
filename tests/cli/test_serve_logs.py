"""The log of `everycore serve` and `run`, as an operator sees it: in a file, as JSON, of requests."""

import json
import os
import re
import signal
import sys

import pytest

from tests.kit import descendants
from tests.kit.log_lines import wait_for_line, wait_until_left
from tests.kit.serving import Served, command, wait_serving

#: Answers with the id of the request; logs and prints by itself; /fail fails.
APP = """
import logging, os

logging.basicConfig(format="APP %(levelname)s %(message)s")

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    logging.getLogger("shop").warning("%d items", "three" if scope["path"] == "/wrong" else 3)
    if scope["path"] == "/fail":
        raise ValueError("no\\nbread")
    os.write(1, b"printed\\n")
    body = dict(scope["headers"])[b"x-request-id"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_json_in_a_file_of_all_processes(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    log, old = tmp_path / "log", tmp_path / "log.1"
    options = ["--workers", "2", "--log-file", "log", "--log-format", "json", "--access-log"]
    program = start_command(command(*options))
    wait_for_line(log, "ready: all 2 workers")
    [serving] = [record for record in records(log) if record["message"].startswith("serving ")]
    served = Served(program, int(serving["message"].rpartition(":")[2]))
    connection = served.connect()
    connection.request("GET", "/x?y=1", headers={"X-Request-ID": "abc-1", "User-Agent": 'a"b'})
    assert connection.getresponse().read() == b"abc-1"
    connection.request("GET", "/fail")  # of the same worker: the line of the first one is written
    assert connection.getresponse().status == 500
    connection.close()
    wait_for_line(log, "exception_type")
    log.rename(old)
    program.signal(signal.SIGUSR1)
    wait_until_left(old, [program.pid, *descendants(program.pid)])
    assert re.fullmatch("[0-9a-f]{32}", served.get("/y"))
    assert program.finish() == 0

    first, second = records(old), records(log)
    assert {record["process"] for record in first} == {"primary", "worker"}
    [told] = [record for record in first if record.get("path") == "/x"]
    wanted = {"status": 200, "query": "y=1", "request_id": "abc-1", "user_agent": 'a"b', "bytes": 5}
    assert wanted.items() <= told.items()
    assert told["duration_ms"] > 0
    [error] = [record for record in first if "exception" in record]
    assert error["exception"].endswith("ValueError: no\nbread")
    [failed] = [record for record in first if record.get("path") == "/fail"]
    assert (failed["status"], failed["request_id"]) == (500, error["request_id"])
    assert failed["worker"] == error["worker"] == told["worker"]
    assert [record["path"] for record in second if "path" in record] == ["/y"]
    assert second[-1]["message"] == "stopped"
    # The application's own output stays as it is.
    assert program.stderr == "APP WARNING 3 items\n" * 3
    assert program.stdout == "printed\n" * 2


@pytest.mark.slow
def test_text_on_stderr_and_a_reload_that_changes_where_it_goes(start_command, tmp_path):
    (tmp_path / "main.py").write_text(APP)
    settings = tmp_path / "everycore.toml"
    settings.write_text("log-file = '-'")
    served = wait_serving(start_command(command("--workers", "1", "--access-log")))
    program = served.program
    name = served.get("/wrong")
    program.expect(r"^--- Logging error ---", stream="stderr")  # its own mistakes are reported, too
    program.expect(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [+-]\d{4} \[worker 1\] INFO"
        rf' 127\.0\.0\.1:\d+ - "GET /wrong HTTP/1\.1" 200 \d+\.\dms {name}$',
        stream="stderr",
    )
    settings.write_text("log-file = 'no/log'")
    program.signal(signal.SIGHUP)
    program.expect(
        "the reload is refused, and nothing has changed: --log-file .from everycore.toml: log-file.:"
        " cannot write 'no/log': there is no folder",
        stream="stderr",
    )
    settings.write_text("log-file = 'log'\nlog-format = 'json'")
    program.signal(signal.SIGHUP)
    wait_for_line(tmp_path / "log", "reload 1: all workers are new")
    # A reload that fails leaves the old worker where the file is now.
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "main.py").write_text("1 / 0")
    worker = program.descendants()
    program.signal(signal.SIGHUP)
    wait_for_line(tmp_path / "log", "reload 2 failed")
    wait_until_left(tmp_path / "log.1", [program.pid, *worker])
    served.get("/x")
    assert program.finish() == 0
    found = records(tmp_path / "log")
    assert [record["worker"] for record in found if record.get("path") == "/x"] == [2]
    assert found[-1]["message"] == "stopped"


@pytest.mark.slow
def test_why_it_did_not_start_is_one_record_and_is_said(start_command, tmp_path):
    (tmp_path / "main.py").write_text("1 / 0")
    options = ["--workers", "1", "--log-file", "log", "--log-format", "json"]
    program = start_command(command(*options))
    assert program.wait() == 3
    last = records(tmp_path / "log")[-1]
    assert (last["level"], last["process"]) == ("critical", "primary")
    assert "ZeroDivisionError" in last["message"]
    assert program.stderr.startswith("everycore: cannot start main:app:\nTraceback")


@pytest.mark.slow
def test_under_run_the_file_has_only_everycores_own_lines(start_command, tmp_path):
    (tmp_path / "program.py").write_text("import logging; logging.warning('its own')")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        options = ["--workers", "1", "--log-file", "pipe", "--log-format", "json"]
        program = start_command([sys.executable, "-P", "-m", "everycore", "run", *options, "program.py"])
        assert program.wait() == 0
        lines = [json.loads(line) for line in os.read(reader, 1 << 16).splitlines()]
    finally:
        os.close(reader)
    assert {line["process"] for line in lines} == {"primary"}
    assert "ended without having listened" in lines[-1]["message"]
    assert program.stderr == "WARNING:root:its own\n"
