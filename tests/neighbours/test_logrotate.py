"""logrotate, with the file of examples/deploy: what was logged stays, and what comes goes into a new file."""

import os
import subprocess

import pytest

from tests.kit import scaled
from tests.kit.log_lines import wait_for_line
from tests.kit.neighbours import adapted, found, get, write

pytestmark = [pytest.mark.slow, pytest.mark.limit(60)]


def test_each_request_is_in_one_of_the_two_files(shop, tmp_path):
    logrotate = found("logrotate")
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)  # logrotate refuses a folder that others may write to
    served = shop("--access-log", log=folder / "shop.log")
    get(served.port, "/before")
    wait_for_line(folder / "shop.log", "GET /before")
    signalled = {
        "/var/log/shop": str(folder),
        "systemctl kill --kill-whom=main --signal=USR1 shop.service": f"kill -USR1 {served.program.pid}",
    }
    config = write(tmp_path, "logrotate.conf", adapted("logrotate.conf", signalled))
    os.chmod(config, 0o644)
    words = [logrotate, "--force", "--state", str(tmp_path / "state"), config]
    done = subprocess.run(words, capture_output=True, text=True, timeout=scaled(30), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for_line(folder / "shop.log", "log files are opened anew")
    get(served.port, "/after")
    wait_for_line(folder / "shop.log", "GET /after")
    old, new = (folder / "shop.log.1").read_text(), (folder / "shop.log").read_text()
    assert "GET /before" in old
    assert "GET /before" not in new
    assert served.program.finish() == 0
