"""Services moved from other servers (examples/from_*): they start, serve and stop unchanged."""

import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.folders import ROOT

EXAMPLES = ROOT / "examples"
HEADERS = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}


@pytest.fixture
def moved(start_command, tmp_path):
    """Start `everycore serve` in a copy of a project, on a free port."""

    def start(project):
        folder = tmp_path / "project"
        shutil.copytree(EXAMPLES / project, folder)
        for name in ("run", "log", "tls"):
            (folder / name).mkdir()
        make_certificate(folder / "tls")
        settings = folder / "everycore.toml"
        settings.write_text(settings.read_text().replace(":8443", ":0"))
        argv = [sys.executable, "-m", "everycore", "serve", "--workers", "2", "--chdir", str(folder)]
        program = start_command([*argv, "--config", str(settings)])
        program.expect("ready: all 2 workers", stream="stderr", timeout=30)
        return folder, program

    return start


def make_certificate(folder: Path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


class UnixTls(http.client.HTTPSConnection):
    """HTTPS by a unix socket."""

    def __init__(self, path: Path) -> None:
        self.context = ssl._create_unverified_context()
        super().__init__("localhost", timeout=30, context=self.context)
        self.path = path

    def connect(self) -> None:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(30)
        plain.connect(str(self.path))
        self.sock = self.context.wrap_socket(plain)


def ask(connection):
    connection.request("GET", "/tea", headers=HEADERS)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response, body


@pytest.mark.ci_only
@pytest.mark.slow
def test_from_uvicorn(moved):
    folder, program = moved("from_uvicorn")
    path = folder / "run" / "shop.sock"
    assert path.stat().st_mode & 0o777 == 0o666
    response, seen = ask(UnixTls(path))
    assert seen == {
        "client": "192.0.2.1",
        "scheme": "https",
        "path": "/shop/tea",
        "root_path": "/shop",
        "mode": "live",
        "prices": {"tea": 3},
    }
    assert response.headers["X-Frame-Options"] == "DENY"
    assert "server" not in response.headers
    assert program.finish() == 0
    assert not path.exists()
    told = (folder / "log" / "shop.log").read_text()
    assert told.count("INFO shop asked for /shop/tea\n") == 1
    assert len(re.findall(r'INFO uvicorn\.access 192\.0\.2\.1:0 - "GET /shop/tea HTTP/1\.1" 200', told)) == 1
    assert told.count("INFO shop the shop is closed\n") == 2


@pytest.mark.ci_only
@pytest.mark.slow
def test_from_gunicorn(moved):
    folder, program = moved("from_gunicorn/after")
    (port,) = re.findall(r"serving store on https://127\.0\.0\.1:(\d+), unix:", program.stderr)
    path = folder / "run" / "store.sock"
    assert path.stat().st_mode & 0o777 == 0o770
    assert (folder / "run" / "store.pid").read_text() == f"{program.pid}\n"
    tcp = http.client.HTTPSConnection(
        "127.0.0.1", int(port), timeout=30, context=ssl._create_unverified_context()
    )
    for connection in (UnixTls(path), tcp):
        _, seen = ask(connection)
        assert seen == {
            "client": "192.0.2.1",
            "forwarded": "192.0.2.1",
            "scheme": "https",
            "path": "/tea",
            "mode": "live",
            "prices": {"tea": 3},
        }
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert (folder / "log" / "access.log").read_text() == '192.0.2.1 "GET /tea HTTP/1.1" 200\n' * 2
    told = (folder / "log" / "store.log").read_text()
    assert told.count("INFO store asked for /tea\n") == 2
    assert told.count("INFO store the store is closed\n") == 2
