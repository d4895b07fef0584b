"""What tests of the command line share."""

import os
import textwrap

import pytest

from everycore import role
from tests.kit import Program
from tests.kit.serving import APP, Served, command, wait_serving


@pytest.fixture(autouse=True)
def start_directory(monkeypatch):
    """A command that runs in this process notes the folder that workers start in: not for later tests."""
    monkeypatch.setattr(role, "start_directory", role.start_directory)


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


#: How variables begin that a command reads.
WORDS = ("EVERYCORE_", "WEB_CONCURRENCY", "PYTHON_CPU_COUNT", "KUBERNETES_")


@pytest.fixture
def no_foreign_settings(monkeypatch, tmp_path):
    """No variable and no file of whoever runs the tests says anything."""
    monkeypatch.chdir(tmp_path)  # nor a file of the folder in which the tests are run
    for name in list(os.environ):
        if name.startswith(WORDS):
            monkeypatch.delenv(name)
