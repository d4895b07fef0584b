"""HAProxy in front, with the file of examples/deploy."""

import signal
from collections.abc import Mapping

import pytest

from tests.kit.neighbours import Customers, adapted, found, get, wait_listening, write
from tests.kit.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.limit(120)]

TRUSTING = ("--trust-proxy-protocol", "127.0.0.1")


@pytest.fixture
def haproxy(start_command, tmp_path):
    """`haproxy(*ports)`: in front of those services; returns its program and its own port."""

    def start(first: int, second: int | None = None, changes: Mapping[str, str] | None = None):
        port = free_port()
        servers = {"127.0.0.1:8000": f"127.0.0.1:{first}", "127.0.0.1:8001": f"127.0.0.1:{second}"}
        if second is None:
            servers["    server shop2 127.0.0.1:8001 check send-proxy-v2\n"] = ""
            del servers["127.0.0.1:8001"]
        own = {"bind :80": f"bind 127.0.0.1:{port}", **servers}
        text = adapted("haproxy.cfg", own | dict(changes or {}))
        config = write(tmp_path, "haproxy.cfg", text)
        program = start_command([found("haproxy"), "-db", "-f", config])
        wait_listening(program, port)
        return program, port

    return start


@pytest.mark.ci_only
def test_the_proxy_protocol_names_the_client(shop, haproxy):
    served = shop(*TRUSTING)
    _, port = haproxy(served.port)
    forged = {"X-Forwarded-For": "6.6.6.6"}
    assert get(port, "/cart", forged) == (200, "127.0.0.1 http /cart\n")
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_by_header(shop, haproxy):
    """By X-Forwarded-For, without the PROXY protocol."""
    served = shop()
    _, port = haproxy(served.port, changes={" send-proxy-v2": ""})
    assert get(port, "/", {"X-Forwarded-For": "6.6.6.6"})[1] == "127.0.0.1 http /\n"
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_a_reload_loses_no_request(shop, haproxy):
    served = shop(*TRUSTING)
    with Customers(haproxy(served.port)[1]) as customers:
        customers.answered(50)
        served.program.signal(signal.SIGHUP)
        served.program.expect("reload 1: all workers are new", stream="stderr")
        customers.answered(50)
    assert set(customers.answers) == {200}, customers.answers
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_of_two_services_one_is_stopped(shop, haproxy):
    """A refused connection goes to the other one: no request is lost."""
    first, second = shop(*TRUSTING), shop(*TRUSTING)
    with Customers(haproxy(first.port, second.port)[1], path="/slow/0.05") as customers:
        customers.answered(20)
        assert first.program.finish() == 0
        customers.answered(20)
        first = shop(*TRUSTING, port=first.port)
        customers.answered(20)
    assert set(customers.answers) == {200}, customers.answers
    assert first.program.finish() == 0
    assert second.program.finish() == 0


@pytest.mark.ci_only
def test_it_takes_out_a_service_that_says_that_it_is_to_stop(shop, haproxy):
    """`/ready` says no from the signal on; `--stop-delay` lets clients that still come be served."""
    pytest.importorskip("prometheus_client")
    health = free_port()
    first = shop(*TRUSTING, "--metrics", f"127.0.0.1:{health}", "--stop-delay", "600")
    second = shop(*TRUSTING)
    asked = {
        "uri /healthz": "uri /ready",
        f"{first.port} check": f"{first.port} check port {health}",
        f"server shop2 127.0.0.1:{second.port} check": f"server shop2 127.0.0.1:{second.port}",
    }
    program, port = haproxy(first.port, second.port, asked)
    with Customers(port) as customers:
        customers.answered(20)
        first.program.signal(signal.SIGTERM)
        program.expect("shop1 is DOWN", stream="stderr")
        assert get(health, "/ready")[0] == 503
        customers.answered(20)
    assert set(customers.answers) == {200}, customers.answers
    assert first.program.finish(signal.SIGINT) == 1  # it has been waited for long enough
    assert second.program.finish() == 0


@pytest.mark.ci_only
def test_of_two_services_one_is_killed(shop, haproxy):
    """Only the answers that it had begun are lost: its customers go to the other one."""
    first, second = shop(*TRUSTING), shop(*TRUSTING)
    program, port = haproxy(first.port, second.port)
    with Customers(port) as customers:
        customers.answered(50)
        first.program.signal(signal.SIGKILL)
        first.program.wait()
        customers.answered(50)
        program.expect("shop1 is DOWN", stream="stderr")
        customers.answered(50)
    bad = {answer: count for answer, count in customers.answers.items() if answer != 200}
    assert sum(bad.values()) <= 4, customers.answers  # one each had one under way
    assert second.program.finish() == 0
