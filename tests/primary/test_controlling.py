"""Where the control socket of a pool is made, and what happens if that is impossible."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from everycore import ConfigurationError
from everycore.primary.controlling import ControlPlan, ControlPost, plan_of
from everycore.system import control_sockets


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """The folder of this user's sockets, whichever user that is."""
    monkeypatch.setattr(control_sockets, "folder_of", lambda _environ, _uid: str(tmp_path / "everycore"))
    return tmp_path / "everycore"


@pytest.fixture
def taken(monkeypatch):
    """Another process has the abstract name."""

    def refuse(_uid, _pid):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(control_sockets, "listen_abstract", refuse)


async def opened(plan):
    post = ControlPost(plan)
    post.open()
    address = None if post._listener is None else str(post._listener.address)
    await post.close()
    return address


async def test_it_is_in_the_folder_of_its_user(runtime):
    assert await opened(ControlPlan("shop")) == f"{runtime}/shop.{os.getpid()}.sock"
    assert list(runtime.iterdir()) == []


async def test_without_a_folder_it_has_an_abstract_name(monkeypatch):
    monkeypatch.setattr(control_sockets, "folder_of", lambda _environ, _uid: None)
    address = await opened(ControlPlan("shop"))
    assert address is not None
    assert address.startswith("@everycore/")
    assert address.endswith(f"/{os.geteuid()}/{os.getpid()}")


async def test_where_the_folder_cannot_be_it_has_an_abstract_name(runtime):
    runtime.write_text("a file")
    address = await opened(ControlPlan("shop"))
    assert address is not None
    assert address.startswith("@")
    assert runtime.read_text() == "a file"


async def test_where_nothing_can_be_there_is_one_line_and_no_socket(runtime, taken, caplog):
    runtime.write_text("a file")
    with caplog.at_level(logging.DEBUG, "everycore"):
        assert await opened(ControlPlan("shop")) is None
    (line,) = caplog.records
    assert line.levelno == logging.DEBUG
    assert "there is no control socket: " in line.getMessage()


async def test_a_path_that_was_named_has_to_work(tmp_path):
    with pytest.raises(ConfigurationError, match=r"--control: cannot make '.*/x/y': there is no such folder"):
        await opened(ControlPlan("shop", path=str(tmp_path / "x" / "y"), setting="--control"))


@pytest.mark.parametrize("argument", ["x.sock", Path("y.sock")])
def test_a_path_of_a_program_is_whole(argument):
    plan = plan_of(argument)
    assert plan is not None
    assert plan.path == os.path.abspath(argument)


@pytest.mark.parametrize("argument", [None, 1, b"x.sock", "", "a\0b"])
def test_anything_but_a_path_is_an_error(argument):
    with pytest.raises(ConfigurationError, match="control: must be True, False or a path, not "):
        plan_of(argument)


def test_a_program_that_asks_for_none_imports_nothing_for_it():
    code = "import everycore.pool, sys; sys.exit('everycore.core.control' in sys.modules)"
    assert plan_of(False) is None
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
