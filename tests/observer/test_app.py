"""What the observer answers. The test plays the primary."""

import asyncio

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from everycore.core import control
from everycore.core.control import ServiceName
from everycore.errors import ControlError
from everycore.observer.app import ObserverApp
from everycore.testing import VirtualTimeLoop
from tests.kit import observed, pass_time


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


class Primary:
    """Answers as a `Line` does."""

    def __init__(self, status=None):
        self.status = status or observed.status(observed.worker(1), observed.worker(2))
        self.is_silent = False
        self.asked = []

    async def ask(self, request, kind):
        self.asked.append(type(request))
        await asyncio.sleep(0)  # noqa: TID251 - a turn, in which others ask
        if self.is_silent:
            raise ControlError("no_answer", "the primary does not answer")
        match request:
            case control.AskHello():
                return ServiceName(name="shop", kind="serve", pid=7, version="1")
            case control.AskStatus():
                return self.status
            case control.AskMetrics():
                return observed.metrics(self.status)


async def get(app, path, method="GET", accept=b"*/*"):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": [(b"accept", accept)]}
    await app(scope, None, send)
    start, body = sent
    headers = dict(start["headers"])
    if method != "HEAD":
        assert int(headers[b"content-length"]) == len(body["body"])
    return start["status"], headers, body["body"].decode()


async def test_it_is_live_as_long_as_the_primary_answers():
    primary = Primary()
    app = ObserverApp(primary, 1)
    assert (await get(app, "/live"))[::2] == (200, "live: shop (pid 7)\n")
    primary.is_silent = True
    await pass_time(1)
    assert (await get(app, "/live"))[::2] == (503, "the primary does not answer\n")


@pytest.mark.parametrize(
    ("state", "ready", "least", "code", "text"),
    [
        ("running", 2, 1, 200, "ready: 2 of 2 workers are ready\n"),
        ("running", 1, 1, 200, "ready: 1 of 2 workers are ready\n"),
        ("running", 1, 2, 503, "not ready: 1 of 2 workers are ready, 2 must be\n"),
        ("starting", 0, 1, 503, "not ready: 0 of 2 workers are ready, 1 must be\n"),
        ("stopping", 2, 1, 503, "not ready: the service is being stopped\n"),
    ],
)
async def test_it_is_ready_with_so_many_workers_until_a_stop_begins(state, ready, least, code, text):
    workers = [observed.worker(number, is_ready=number <= ready) for number in (1, 2)]
    app = ObserverApp(Primary(observed.status(*workers, state=state)), least)
    assert (await get(app, "/ready"))[::2] == (code, text)


async def test_a_worker_that_is_stuck_does_not_count():
    status = observed.status(observed.worker(1, stuck=12.0), observed.worker(2))
    assert (await get(ObserverApp(Primary(status), 1), "/ready"))[2] == "ready: 1 of 2 workers are ready\n"
    assert (await get(ObserverApp(Primary(status), 2), "/ready"))[0] == 503


async def test_metrics_are_open_metrics_for_a_client_that_accepts_them():
    app = ObserverApp(Primary(), 1)
    status, headers, body = await get(app, "/metrics", accept=b"application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert headers[b"content-type"].startswith(b"application/openmetrics-text; version=1.0.0")
    names = [family.name for family in text_string_to_metric_families(body)]
    assert "everycore_workers" in names
    status, headers, body = await get(app, "/metrics")
    assert headers[b"content-type"].startswith(b"text/plain; version=")
    assert 'everycore_service_info{kind="serve",name="sh\\"op\\\\\\n"} 1.0' in body


@pytest.mark.parametrize("version", [b"1.x", b"x", b"1..", b"\xff", b"1.0.0.0", b"9" * 5000, b""])
@pytest.mark.parametrize("kind", [b"text/plain", b"application/openmetrics-text"])
async def test_a_version_that_is_none_is_no_fault_of_ours(caplog, kind, version):
    status, _, body = await get(ObserverApp(Primary(), 1), "/metrics", accept=kind + b"; version=" + version)
    assert status == 200
    assert "everycore_workers" in body
    assert caplog.text == ""


async def test_a_primary_that_does_not_answer_has_no_metrics():
    primary = Primary()
    app = ObserverApp(primary, 1)
    primary.is_silent = True
    assert (await get(app, "/metrics"))[0] == 503
    assert (await get(app, "/ready"))[0] == 503


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/ready", "POST", 405), ("/ready", "HEAD", 200)],
)
async def test_other_requests(path, method, status):
    found = await get(ObserverApp(Primary(), 1), path, method)
    assert found[0] == status
    assert (found[2] == "") == (method == "HEAD")


async def test_simultaneous_clients_get_the_same_answer():
    primary = Primary()
    app = ObserverApp(primary, 1)
    answers = await asyncio.gather(*(get(app, "/ready") for _ in range(100)))
    assert {answer[0] for answer in answers} == {200}
    assert len(primary.asked) == 1


async def test_a_fault_in_everycore_is_an_answer_too(caplog):
    primary = Primary()
    primary.status = None
    app = ObserverApp(primary, 1)
    assert (await get(app, "/ready"))[::2] == (500, "the observer has failed; the log says how\n")
    assert "/ready failed" in caplog.text
