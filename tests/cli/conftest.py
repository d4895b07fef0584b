"""Fixtures of the tests of the command line."""

import os
import textwrap

import pytest

from everycore import role
from tests.kit import Program
from tests.kit.serving import APP, Served, command, wait_serving


@pytest.fixture(autouse=True)
def start_directory(monkeypatch):
    """A command in this process records the workers' folder, which later tests must not see."""
    monkeypatch.setattr(role, "start_directory", role.start_directory)


@pytest.fixture
def start(start_command, tmp_path):
    """Start `everycore serve` with an application of that source, without waiting."""

    def start_it(*options: str, source: str = APP, app: str = "main:app", env=None) -> Program:
        (tmp_path / "main.py").write_text(textwrap.dedent(source))
        return start_command(command(*options, app=app), env=env)

    return start_it


@pytest.fixture
def serve(start):
    """The same, but wait until it serves."""

    def serve_it(*options: str, workers: int = 2, **rest) -> Served:
        return wait_serving(start("--workers", str(workers), *options, **rest))

    return serve_it


#: The prefixes of variables that a command reads.
WORDS = ("EVERYCORE_", "WEB_CONCURRENCY", "PYTHON_CPU_COUNT", "KUBERNETES_")


@pytest.fixture
def no_foreign_settings(monkeypatch, tmp_path):
    """Variables and files of the user who runs the tests have no effect."""
    monkeypatch.chdir(tmp_path)  # nor has a file in the folder in which the tests run
    for name in list(os.environ):
        if name.startswith(WORDS):
            monkeypatch.delenv(name)
