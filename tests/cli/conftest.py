"""What tests of the command line share."""

import textwrap

import pytest

from tests.kit import Program
from tests.kit.serving import APP, Served, command, wait_serving


@pytest.fixture
def start(start_command, tmp_path):
    """Starts `everycore serve` with an application of that source; does not wait for anything."""

    def start_it(*options: str, source: str = APP, app: str = "main:app", env=None) -> Program:
        (tmp_path / "main.py").write_text(textwrap.dedent(source))
        return start_command(command(*options, app=app), env=env)

    return start_it


@pytest.fixture
def serve(start):
    """The same, and waits until it serves."""

    def serve_it(*options: str, workers: int = 2, **rest) -> Served:
        return wait_serving(start("--workers", str(workers), *options, **rest))

    return serve_it
