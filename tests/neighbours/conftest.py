"""A service with the application of examples/deploy, behind other programs."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import Program
from tests.kit.log_lines import wait_for_line
from tests.kit.neighbours import DEPLOY
from tests.kit.ports import free_port
from tests.kit.serving import Served


@pytest.fixture
def shop(start_command) -> Callable[..., Served]:
    """`shop(*options)`: `everycore serve`, ready, on a port that the next one can use again.

    log: the file that its log goes to.
    """

    def start(
        *options: str, port: int | None = None, app: str = "main:app", log: Path | None = None
    ) -> Served:
        port = port or free_port()
        argv = [sys.executable, "-P", "-m", "everycore", "serve", "--workers", "2", "--control", "off"]
        argv += ["--bind", f"127.0.0.1:{port}", "--app-dir", str(DEPLOY), *options]
        argv += [] if log is None else ["--log-file", str(log)]
        program: Program = start_command([*argv, app])
        if log is None:
            program.expect("ready: all 2", stream="stderr")
        else:
            wait_for_line(log, "ready: all 2")
        return Served(program, port)

    return start
