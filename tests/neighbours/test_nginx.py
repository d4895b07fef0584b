"""nginx in front, with the file of examples/deploy."""

import os
import signal

import pytest
from websockets.sync.client import connect

from tests.kit import scaled
from tests.kit.neighbours import Customers, adapted, found, get, wait_listening, write
from tests.kit.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.limit(120)]

#: What Debian's nginx.conf has around the files of conf.d.
AROUND = """
{user}daemon off; pid {folder}/nginx.pid; error_log stderr warn; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/shop.conf;
}}
"""


@pytest.fixture
def nginx(start_command, tmp_path):
    """`nginx(server)`: in front of `server` (as in an upstream); returns its own port."""

    def start(server: str) -> int:
        port = free_port()
        changes = {"127.0.0.1:8000": server, "listen 80;": f"listen 127.0.0.1:{port};"}
        write(tmp_path, "shop.conf", adapted("nginx.conf", changes))
        user = "" if os.geteuid() else "user root; "  # else nobody, who may not see a test's folder
        whole = write(tmp_path, "nginx.conf", AROUND.format(folder=tmp_path, user=user))
        program = start_command([found("nginx"), "-e", "stderr", "-p", str(tmp_path), "-c", whole])
        wait_listening(program, port)
        return port

    return start


def test_the_application_knows_the_client_and_the_scheme(shop, nginx):
    served = shop()
    port = nginx(f"127.0.0.1:{served.port}")
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher"}
    assert get(port, "/cart", forged) == (200, "127.0.0.1 http /cart\n")
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_over_a_unix_socket(shop, nginx, tmp_path):
    path = f"{tmp_path}/app.sock"
    served = shop("--bind", f"unix:{path}", "--socket-mode", "666", "--forwarded-allow-ips", "*")
    assert get(nginx(f"unix:{path}"), "/")[1] == "127.0.0.1 http /\n"
    assert served.program.finish() == 0


@pytest.mark.ci_only
@pytest.mark.parametrize("policy", ["round_robin", "shared"])
def test_a_reload_loses_no_request(shop, nginx, policy):
    served = shop("--policy", policy, "--timeout-keep-alive", "75")
    with Customers(nginx(f"127.0.0.1:{served.port}")) as customers:
        customers.answered(50)
        served.program.signal(signal.SIGHUP)
        served.program.expect("reload 1: all workers are new", stream="stderr")
        customers.answered(50)
    assert set(customers.answers) == {200}, customers.answers
    assert served.program.finish() == 0


@pytest.mark.ci_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_without_a_service_nginx_says_so(shop, nginx, number):
    """Clients get 502 until the next service is there, and none gets half an answer."""
    served = shop()
    port = nginx(f"127.0.0.1:{served.port}")
    with Customers(port, path="/slow/0.3") as customers:
        customers.answered(8)
        served.program.signal(number)
        served.program.wait()
        customers.answered(8)
        served = shop(port=served.port)
        customers.answered(8)
    assert set(customers.answers) <= {200, 502}, customers.answers
    assert served.program.finish() == 0


@pytest.mark.ci_only
def test_websockets(start_command, nginx, shop, tmp_path):
    source = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    event = await receive()
    await send({"type": "websocket.send", "text": event["text"] + "!"})
"""
    write(tmp_path, "echo.py", source)
    served = shop("--app-dir", str(tmp_path), "--lifespan", "off", app="echo:app")
    uri = f"ws://127.0.0.1:{nginx(f'127.0.0.1:{served.port}')}/"
    with connect(uri, open_timeout=scaled(20), proxy=None) as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=scaled(20)) == "hello!"
    assert served.program.finish() == 0
