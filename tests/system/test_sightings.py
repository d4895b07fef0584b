"""Listeners that everycore has not seen, as the kernel reports them."""

import os
import signal
import socket

import pytest

from everycore.system import sightings
from everycore.system.sightings import (
    command_line,
    descendants_of,
    is_at,
    is_shareable,
    listeners_of,
    sockets_of,
    waits_for_process,
)
from tests.kit.log_lines import wait_until


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_is_found_by_its_inode(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock, socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # does not listen
        assert listeners_of(os.getpid()) == [sock.getsockname()[:2]]
        assert listeners_of(os.getpid(), sockets_of(os.getpid())) == []


def test_a_unix_listener_is_found_and_one_of_multiprocessing_is_not(tmp_path):
    (tmp_path / "pymp-x").mkdir()
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as plumbing:
        sock.bind(str(tmp_path / "a socket"))
        sock.listen()
        plumbing.bind(str(tmp_path / "pymp-x" / "listener"))
        plumbing.listen()
        assert listeners_of(os.getpid()) == [str(tmp_path / "a socket")]


def test_a_name_that_breaks_the_table_hides_no_listener(tmp_path):
    """Any process in the network namespace may bind one."""
    with socket.socket(socket.AF_UNIX) as strange, socket.socket(socket.AF_UNIX) as sock:
        strange.bind(str(tmp_path / "a\nb c d zz f g h"))
        strange.listen()
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        assert str(tmp_path / "socket") in listeners_of(os.getpid())


def test_of_very_many_descriptors_some_are_looked_at(monkeypatch):
    """A worker can have more than the primary has time for."""
    monkeypatch.setattr(sightings, "MOST_LOOKED_AT", 3)
    socks = [socket.socket() for _ in range(9)]
    assert len(sockets_of(os.getpid())) <= 3
    for sock in socks:
        sock.close()


def test_one_of_another_process_is_found_there(start_program):
    program = start_program("""
        import os, socket, time
        sock = socket.create_server(("127.0.0.1", 0))
        print("port", sock.getsockname()[1], flush=True)
        input()
    """)
    port = int(program.expect("port (.*)")[1])
    (child,) = [pid for pid in descendants_of(os.getpid()) if listeners_of(pid)]
    assert listeners_of(child) == [("127.0.0.1", port)]
    assert child == program.pid


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whether_others_may_listen_there_too(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as alone:
        assert not is_shareable(alone.getsockname()[:2])
    with socket.create_server((host, 0), family=family, reuse_port=True) as shared:
        assert is_shareable(shared.getsockname()[:2])
        socket.create_connection(shared.getsockname()[:2]).close()  # trying has changed nothing
    assert not is_shareable("/run/a path")


def test_a_process_that_is_not_there_has_none():
    assert listeners_of(1 << 22) == descendants_of(1 << 22) == []


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80), True),
        (("0.0.0.0", 80), ("127.0.0.1", 80), True),
        (("::", 80), ("127.0.0.1", 80), True),
        (("::1", 80), ("::1", 80, 0, 0), True),
        (("127.0.0.2", 80), ("127.0.0.1", 80), False),
        (("127.0.0.1", 81), ("127.0.0.1", 80), False),
        ("/run/socket", ("127.0.0.1", 80), False),
        (("127.0.0.1", 80), "/run/socket", False),
    ],
)
def test_whom_a_connection_may_reach(found, asked, expected):
    assert is_at(found, asked) is expected


def test_one_that_waits_for_its_child_and_its_command_line(start_program):
    program = start_program("""
        import subprocess, sys
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        print("started", flush=True)
        input()
        print("waits", flush=True)
        child.wait()
    """)
    program.expect("started")
    assert not waits_for_process(program.pid)
    (child,) = descendants_of(program.pid)
    wait_until(lambda: command_line(child) == ["cat"], "the kernel knows its words")
    program.write("\n")
    wait_until(lambda: waits_for_process(program.pid), "it waits for its child")
    os.kill(child, signal.SIGTERM)
    assert program.wait() == 0
    assert not waits_for_process(program.pid)
    assert command_line(program.pid) == []
