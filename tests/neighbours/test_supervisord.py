"""supervisord starts the service, with the file of examples/deploy."""

import re
import subprocess

import pytest

from tests.kit import scaled, wait_gone
from tests.kit.log_lines import wait_for_line
from tests.kit.neighbours import DEPLOY, EVERYCORE, INSTALLED, Customers, adapted, found, get, write
from tests.kit.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.limit(120), pytest.mark.ci_only]

#: What Debian's supervisord.conf has around the files of conf.d.
AROUND = """
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/supervisord.pid
[unix_http_server]
file={folder}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/supervisor.sock
[include]
files = {folder}/shop.conf
"""


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def supervisor(start_command, tmp_path, port):
    """Calls supervisorctl with these words. The service runs."""
    own = {
        INSTALLED: EVERYCORE, "/srv/shop/current": str(DEPLOY), "user=shop\n": "",
        "127.0.0.1:8000": f"127.0.0.1:{port}", "/var/log/supervisor": str(tmp_path),
    }  # fmt: skip
    write(tmp_path, "shop.conf", adapted("supervisord.conf", own))
    config = write(tmp_path, "supervisord.conf", AROUND.format(folder=tmp_path))
    program = start_command([found("supervisord"), "-c", config])
    program.expect(r"success: shop entered RUNNING state")
    wait_for_line(tmp_path / "shop.log", "ready: all")

    def ctl(*words: str) -> str:
        argv = [found("supervisorctl"), "-c", config, *words]
        limit = scaled(90)
        return subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False).stdout

    yield ctl, program
    assert program.finish() == 0


def test_a_life(supervisor, port, tmp_path):
    ctl, program = supervisor
    assert get(port)[0] == 200
    first = int(ctl("pid", "shop"))
    with Customers(port) as customers:
        customers.answered(20)
        assert "signalled" in ctl("signal", "HUP", "shop")
        wait_for_line(tmp_path / "shop.log", "reload 1: all workers are new")
        customers.answered(20)
    assert set(customers.answers) == {200}, customers.answers
    assert int(ctl("pid", "shop")) == first
    # A primary that is killed leaves no worker, and supervisord starts the next one.
    processes = program.descendants()
    assert first in processes
    ctl("signal", "KILL", "shop")
    assert wait_gone(processes) == []
    program.expect(r"exited: shop \(terminated by SIGKILL")
    program.expect(r"success: shop entered RUNNING state")
    wait_for_line(tmp_path / "shop.log", r"ready: all(.*\n)+.*ready: all")
    assert get(port)[0] == 200
    assert "stopped" in ctl("stop", "shop")
    assert re.search(r"STOPPED", ctl("status", "shop"))
    program.expect(r"stopped: shop \(exit status 0\)")
