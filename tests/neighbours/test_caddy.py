"""Caddy in front, with the file of examples/deploy."""

import signal

import pytest

from tests.kit.neighbours import Customers, adapted, found, get, wait_listening, write
from tests.kit.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.limit(120)]


@pytest.fixture
def caddy(start_command, tmp_path):
    """`caddy(port)`: in front of that service; returns its own port."""

    def start(to: int) -> int:
        port = free_port()
        changes = {"127.0.0.1:8000": f"127.0.0.1:{to}", ":80 {": f"http://127.0.0.1:{port} {{"}
        text = "{\n\tadmin off\n}\n" + adapted("Caddyfile", changes)
        config = write(tmp_path, "Caddyfile", text)
        env = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        argv = [found("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
        program = start_command(argv, env=env)
        wait_listening(program, port)
        return port

    return start


@pytest.mark.ci_only
def test_the_application_knows_the_client_and_the_scheme(shop, caddy):
    served = shop()
    forged = {"X-Forwarded-For": "6.6.6.6"}
    assert get(caddy(served.port), "/cart", forged) == (200, "127.0.0.1 http /cart\n")
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_a_reload_loses_no_request(shop, caddy):
    served = shop()
    with Customers(caddy(served.port)) as customers:
        customers.answered(50)
        served.program.signal(signal.SIGHUP)
        served.program.expect("reload 1: all workers are new", stream="stderr")
        customers.answered(50)
    assert set(customers.answers) == {200}, customers.answers
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_of_a_primary_that_is_killed_the_requests_under_way_are_lost(shop, caddy):
    served = shop()
    with Customers(caddy(served.port), path="/slow/0.1") as customers:
        customers.answered(20)
        served.program.signal(signal.SIGKILL)
        served.program.wait()
        served = shop(port=served.port)
        customers.answered(20)
    lost = customers.answers.total() - customers.answers[200]
    assert lost <= 4, customers.answers  # one of each client
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_a_stop_and_a_start_lose_no_request(shop, caddy):
    """Caddy retries as long as it is refused."""
    served = shop()
    with Customers(caddy(served.port), path="/slow/0.1") as customers:
        customers.answered(20)
        served.program.signal(signal.SIGTERM)
        assert served.program.wait() == 0
        served = shop(port=served.port)
        customers.answered(20)
    assert set(customers.answers) == {200}, customers.answers
    assert served.program.finish() == 0
