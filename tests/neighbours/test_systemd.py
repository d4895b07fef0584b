"""The unit files, checked by systemd-analyze and run under the test's own systemd."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.folders import ROOT
from tests.kit.neighbours import DEPLOY, EVERYCORE, INSTALLED, Customers, adapted, found, get, write
from tests.kit.ports import free_port
from tests.kit.real_systemd import RealSystemd
from tests.kit.service_managers import waiting_request

UNITS = sorted(path.name for path in DEPLOY.iterdir() if path.suffix in (".service", ".socket"))
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

pytestmark = [pytest.mark.slow, pytest.mark.limit(120)]


def test_systemd_finds_nothing_wrong(tmp_path):
    analyze = found("systemd-analyze")
    paths = []
    for name in UNITS:
        command = {INSTALLED: EVERYCORE.split()[0]} if name.endswith(".service") else {}
        paths.append(write(tmp_path, name, adapted(name, command)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *paths],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if str(tmp_path) in line]) == (0, [])


def may_be_read_by_others() -> bool:
    """Whether another user can start this Python, and read everycore."""
    paths = (ROOT / "src", Path(sys.executable).resolve(), Path(sys.prefix))
    steps = {step for path in paths for step in (path, *path.parents)}
    return all(step.stat().st_mode & 0o005 == 0o005 for step in steps)


def unit(name: str, port: int, log: Path) -> str:
    """The unit with this machine's command, and without the lines that need a server's users and folders."""
    user = "nobody" if may_be_read_by_others() else "root"
    changes = {
        INSTALLED: EVERYCORE,
        "User=shop": f"User={user}",
        "/srv/shop/current": str(DEPLOY),
        "[Unit]": "[Unit]\nDefaultDependencies=no",
        "[Service]": f"[Service]\nStandardOutput=append:{log}\nStandardError=inherit",
    }
    if name == "shop.service":
        changes |= {"127.0.0.1:8000": f"127.0.0.1:{port}", "ProtectHome=yes": "ProtectHome=no"}
        if any(path.is_relative_to("/tmp") for path in (ROOT, Path(sys.prefix))):
            changes["PrivateTmp=yes"] = "PrivateTmp=no"
    return adapted(name, changes)


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def systemd(start_command, tmp_path, port):
    """Knows the three units of examples/deploy; the one that is activated has another port."""
    (tmp_path / "units").mkdir()
    units = {name: unit(name, port, tmp_path / "log") for name in UNITS if name.endswith(".service")}
    socket = {"127.0.0.1:8000": f"{tmp_path}/activated", "[Unit]": "[Unit]\nDefaultDependencies=no"}
    units["shop-activated.socket"] = adapted("shop-activated.socket", socket)
    with RealSystemd(start_command, tmp_path / "units", units) as systemd:
        yield systemd
    print((tmp_path / "log").read_text())


@pytest.mark.ci_only
def test_a_life_under_systemd(systemd, port, tmp_path):
    assert systemd.ctl("start", "shop.service") == ""
    assert get(port)[0] == 200  # `start` has waited until it serves
    first = systemd.ctl("show", "-P", "MainPID", "shop.service")
    assert systemd.ctl("show", "-P", "NFileDescriptorStore", "shop.service") == "1"
    assert re.search(r"\d+ of \d+ workers ready", systemd.ctl("status", "shop.service"))
    assert systemd.ctl("reload", "shop.service") == ""
    assert systemd.ctl("show", "-P", "MainPID", "shop.service") == first
    # A restart: clients that connect meanwhile wait, and no request is lost.
    with Customers(port) as customers:
        customers.answered(20)
        assert systemd.ctl("restart", "shop.service") == ""
        customers.answered(20)
    assert set(customers.answers) == {200}, customers.answers
    second = systemd.ctl("show", "-P", "MainPID", "shop.service")
    assert second != first
    assert get(port)[0] == 200
    # A primary that is stopped, and then killed: systemd starts the next one, which serves waiting clients.
    systemd.ctl("kill", "--kill-whom=main", "--signal=STOP", "shop.service")
    with waiting_request(port, REQUEST) as answer:
        systemd.ctl("kill", "--kill-whom=main", "--signal=KILL", "shop.service")
        assert b"200 OK" in answer()
    assert systemd.ctl("show", "-P", "MainPID", "shop.service") not in (first, second)
    assert systemd.ctl("show", "-P", "NRestarts", "shop.service") == "1"
    assert systemd.ctl("stop", "shop.service") == ""
    assert systemd.ctl("show", "-P", "NFileDescriptorStore", "shop.service") == "0"
    with pytest.raises(ConnectionRefusedError):
        get(port)
    # Activation: the first client starts the service, and a restart keeps connections that come.
    assert systemd.ctl("start", "shop-activated.socket") == ""
    for action in ("status", "restart"):
        systemd.ctl(action, "shop-activated.service")
        with waiting_request(f"{tmp_path}/activated", REQUEST) as answer:
            assert b"200 OK" in answer()
    assert systemd.ctl("stop", "shop-activated.socket", "shop-activated.service") == ""
    assert os.listdir(tmp_path / "units")
