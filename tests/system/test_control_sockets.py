"""Where control sockets are, which process is there, and what is removed."""

import contextlib
import os
import socket
import stat
import subprocess

import pytest

from everycore.system import sightings
from everycore.system.control_sockets import (
    OF_ROOT,
    ControlAddress,
    PeerCredentials,
    candidates,
    connect_to,
    credentials,
    folder_of,
    is_genuine,
    listen_abstract,
    listen_at,
    listen_in,
    may_steer,
    remove_dead,
)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "everycore")


@pytest.fixture
def closing():
    with contextlib.ExitStack() as stack:
        yield lambda listener: (stack.callback(listener.close), listener)[1]


@pytest.mark.parametrize(
    ("uid", "runtime", "found"),
    [
        (0, "/run/user/0", OF_ROOT),
        (0, None, OF_ROOT),
        (7, "/run/user/7", "/run/user/7/everycore"),
        (7, None, None),
        (7, "", None),
        (7, "run", None),
    ],
)
def test_the_folder_of_a_user(uid, runtime, found):
    assert folder_of({} if runtime is None else {"XDG_RUNTIME_DIR": runtime}, uid) == found


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("main:app", "main_app.5.sock"),
        ("../../etc/x", "______etc_x.5.sock"),
        ("", "_.5.sock"),
        ("x" * 300, "x" * 60 + ".5.sock"),
        ("größe\udc80", "gr__e_.5.sock"),
    ],
)
@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_a_private_file_with_name_and_pid(folder, closing, name, file, mask):
    before = os.umask(mask)
    try:
        listener = closing(listen_in(folder, name, 5))
    finally:
        os.umask(before)
    assert os.listdir(folder) == [file]
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(listener.address.name).st_mode) == 0o600
    connect_to(listener.address, 1.0).close()
    listener.close()
    assert os.listdir(folder) == []


def test_a_second_one_of_the_same_process_has_a_name_of_its_own(folder, closing):
    closing(listen_in(folder, "x", 5))
    closing(listen_in(folder, "x", 5))
    assert sorted(os.listdir(folder)) == ["x-2.5.sock", "x.5.sock"]


def test_a_folder_that_others_see_into_is_closed(folder, closing):
    os.mkdir(folder, 0o755)
    closing(listen_in(folder, "x", 5))
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    os.mkdir(folder, 0o700)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(PermissionError):
        listen_in(folder, "x", 5)
    assert os.listdir(folder) == []


def test_a_link_does_not_count_as_a_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", folder)
    with pytest.raises(PermissionError):
        listen_in(folder, "x", 5)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_what_was_left_behind_is_replaced(folder, closing):
    left = listen_in(folder, "x", 5)
    left.sock.close()
    assert [address.name for address in candidates(folder) if not address.is_abstract] == [
        f"{folder}/x.5.sock"
    ]
    listener = closing(listen_in(folder, "x", 5))
    connect_to(listener.address, 1.0).close()
    assert os.listdir(folder) == ["x.5.sock"]


def test_a_dead_file_is_removed_and_a_living_one_is_not(folder, closing):
    living = closing(listen_in(folder, "living", 5))
    dead = listen_in(folder, "dead", 6)
    dead.sock.close()
    for address in candidates(folder):
        if not address.is_abstract:
            remove_dead(address)
    remove_dead(dead.address)  # another one was faster
    assert os.listdir(folder) == ["living.5.sock"]
    connect_to(living.address, 1.0).close()


def test_one_that_starts_removes_what_the_killed_have_left(folder, closing):
    gone = subprocess.Popen(["true"])
    gone.wait()
    living = closing(listen_in(folder, "elsewhere", gone.pid))  # as from another pid namespace
    for pid in (gone.pid, os.getpid()):
        listen_in(folder, "left", pid).sock.close()
    closing(listen_in(folder, "x", 1))
    assert sorted(os.listdir(folder)) == sorted(
        [os.path.basename(living.address.name), f"left.{os.getpid()}.sock", "x.1.sock"]
    )


def test_a_long_path(tmp_path, closing):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    listener = closing(listen_at(str(folder / "control.sock")))
    connect_to(listener.address, 1.0).close()
    connect_to(closing(listen_in(str(folder / "y"), "name", 5)).address, 1.0).close()


def test_anything_but_a_socket_is_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(OSError):
        listen_at(str(path))
    assert path.read_text() == "mine"


# Abstract names


def test_an_abstract_name_is_found_and_genuine(closing):
    listener = closing(listen_abstract(os.geteuid(), os.getpid()))
    assert str(listener.address).startswith("@everycore/")
    assert listener.address in list(candidates(None))
    connect_to(listener.address, 1.0).close()


def test_a_name_that_another_process_has_taken_is_not_asked(closing):
    """The name says pid 1, but this process listens there."""
    squatter = closing(listen_abstract(os.geteuid(), 1))
    assert squatter.address in list(candidates(None))
    with pytest.raises(PermissionError, match="has taken that name"):
        connect_to(squatter.address, 1.0)


def test_a_client_is_not_taken_for_one_that_listens(closing):
    """In /proc/net/unix, connected sockets have the abstract name too."""
    listener = closing(listen_abstract(os.geteuid(), os.getpid()))
    with connect_to(listener.address, 1.0), listener.sock.accept()[0]:
        assert list(candidates(None)).count(listener.address) == 1


# Which process is there


@pytest.mark.parametrize(("uid", "may"), [(7, True), (0, True), (8, False)])
def test_which_peers_may_steer(uid, may, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert may_steer(PeerCredentials(1, uid)) is may


@pytest.mark.parametrize(
    ("own", "peer", "address", "genuine"),
    [
        (7, PeerCredentials(5, 7), ControlAddress("/x"), True),
        (7, PeerCredentials(5, 0), ControlAddress("/x"), True),
        (7, PeerCredentials(5, 8), ControlAddress("/x"), False),
        (0, PeerCredentials(5, 8), ControlAddress("/missing"), False),
        (7, PeerCredentials(5, 7), ControlAddress("\0x/5", 5), True),
        (7, PeerCredentials(6, 7), ControlAddress("\0x/5", 5), False),
        (7, PeerCredentials(5, 0), ControlAddress("\0x/5", 5), False),
    ],
)
def test_which_peers_are_genuine(own, peer, address, genuine, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert is_genuine(peer, address) is genuine


def test_root_asks_a_service_that_runs_as_the_owner_of_its_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.touch()
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert is_genuine(PeerCredentials(5, owner), ControlAddress(str(path)))
    assert owner == 0 or not is_genuine(PeerCredentials(5, owner + 1), ControlAddress(str(path)))


def test_credentials_are_those_of_the_other_end():
    one, other = socket.socketpair()
    with one, other:
        assert credentials(one) == PeerCredentials(os.getpid(), os.geteuid())


def test_without_proc_there_are_no_abstract_names(monkeypatch):
    def refuse(*_args, **_rest):
        raise OSError

    monkeypatch.setattr(sightings, "open", refuse, raising=False)
    assert list(candidates(None)) == []
