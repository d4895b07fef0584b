"""Folders opened step by step: links of other users are not followed."""

import errno
import os
import stat

import pytest

from everycore.system.folders import open_folder
from everycore.system.sockets import bind_unix, unlink_if_same

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives links to others")
OTHER = 65534


def reached(path):
    fd = open_folder(os.fsencode(path))
    try:
        return os.path.realpath(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to("../a/b")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("a", "a"),
        ("a/b/", "a/b"),
        ("./a//b/../b", "a/b"),
        ("absolute/b", "a/b"),
        ("absolute/up", "a/b"),
        ("a/up/../up", "a/b"),
    ],
)
def test_the_users_own_links_and_those_of_root_are_followed(tree, path, where):
    assert reached(f"{tree}/{path}") == str(tree / where)


def test_the_root():
    assert reached("/") == "/"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("file", errno.ENOTDIR),
        ("file/x", errno.ENOTDIR),
        ("missing", errno.ENOENT),
        ("gone", errno.ENOENT),
        ("loop", errno.ELOOP),
    ],
)
def test_paths_that_are_not_folders(tree, path, number):
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        reached(f"{tree}/{path}")
    assert caught.value.errno == number


@needs_root
@pytest.mark.parametrize("link", ["absolute", "a/up"])
def test_a_link_of_another_user_is_not_followed(tree, link):
    os.chown(tree / link, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        reached(tree / link)


@needs_root
def test_a_socket_is_neither_bound_nor_removed_by_way_of_such_a_link(tree):
    os.chown(tree / "absolute", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        bind_unix(f"{tree}/absolute/x.sock", user=OTHER)
    with bind_unix(f"{tree}/a/x.sock", user=OTHER):
        found = os.lstat(tree / "a" / "x.sock")
        assert stat.S_ISSOCK(found.st_mode)
        unlink_if_same(f"{tree}/absolute/x.sock", (found.st_dev, found.st_ino), is_guarded=True)
        assert (tree / "a" / "x.sock").exists()
        unlink_if_same(f"{tree}/a/x.sock", (found.st_dev, found.st_ino), is_guarded=True)
        assert not (tree / "a" / "x.sock").exists()
