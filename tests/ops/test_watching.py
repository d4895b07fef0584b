"""Files changed as editors, git and people do, and the changes that are reported. The files are real."""

import asyncio
import contextlib
import importlib
import logging
import os
import shutil
from collections.abc import Iterator

import pytest

from everycore.core.changes import WatchedFiles
from everycore.ops.watching import watching
from tests.kit import scaled


class Heard:
    """The changes that have been reported."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.seen: set[str] = set()
        self._told = asyncio.Event()

    def __call__(self, paths: list[str]) -> None:
        self.paths.update(paths)
        self.seen.update(paths)
        self._told.set()

    async def until(self, *paths) -> None:
        """Wait until changes of these have been reported, and start over."""
        async with asyncio.timeout(scaled(20)):
            while not set(map(str, paths)) <= self.paths:
                self._told.clear()
                await self._told.wait()
        self.paths = set()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def src(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    return folder


@pytest.mark.slow
async def test_however_a_file_changes(src, heard):
    for name in ("written", "saved", "touched", "moved", "removed"):
        (src / f"{name}.py").touch()
    (src / "__pycache__").mkdir()
    async with watching(WatchedFiles((str(src),)), heard):
        (src / "written.py").write_text("1")
        (src / "saved.py.new").write_text("2")
        (src / "saved.py.new").replace(src / "saved.py")
        (src / "touched.py").touch()
        (src / "moved.py").rename(src / "there.py")
        (src / "removed.py").unlink()
        (src / "created.py").touch()
        (src / "__pycache__" / "no.py").touch()
        (src / "no.txt").touch()
        names = ("written", "saved", "touched", "moved", "there", "removed", "created")
        await heard.until(*(src / f"{name}.py" for name in names))
        (src / "pkg").mkdir()
        (src / "pkg" / "a.py").touch()  # it may exist before the folder is watched
        await heard.until(src / "pkg" / "a.py")
        (src / "pkg").rename(src / "other")
        await heard.until(src / "other" / "a.py")
        assert not any("no" in os.path.basename(path) for path in heard.seen)


@pytest.mark.slow
async def test_a_watched_folder_that_goes_and_comes_back(src, tmp_path, heard):
    async with watching(WatchedFiles((str(src), str(tmp_path / "lib"))), heard):
        src.rename(tmp_path / "gone")
        (tmp_path / "gone" / "a.py").write_text("1")
        (tmp_path / "gone").rename(src)
        await heard.until(src / "a.py")
        (src / "a.py").write_text("2")
        await heard.until(src / "a.py")
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "b.py").touch()
        await heard.until(tmp_path / "lib" / "b.py")
        shutil.rmtree(src)
        src.mkdir()
        (src / "c.py").touch()
        await heard.until(src / "c.py")


@pytest.mark.slow
async def test_a_file_elsewhere_is_watched_alone(src, tmp_path, heard):
    etc = tmp_path / "etc"
    (etc / "deep").mkdir(parents=True)
    async with watching(WatchedFiles((str(src),), frozenset({str(etc / "shop.toml")})), heard):
        (etc / "deep" / "a.py").touch()
        (etc / "other.toml").touch()
        (etc / "shop.toml").touch()
        await heard.until(etc / "shop.toml")
        (src / "b.py").touch()
        await heard.until(src / "b.py")
        assert heard.seen == {str(etc / "shop.toml"), str(src / "b.py")}


class Failing:
    """As `watchfiles.watch`, but the first calls raise these errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked: list[dict[str, object]] = []
        self._watch = importlib.import_module("watchfiles").watch

    def __call__(self, *folders: str, **how: object) -> Iterator[object]:
        self.asked.append(how)
        if self.errors:
            raise self.errors.pop(0)
        return self._watch(*folders, **how)


FULL = OSError("OS file watch limit reached.")


@pytest.mark.slow
@pytest.mark.parametrize("error", [FULL, RuntimeError("Too many open files (os error 24)")])
async def test_without_the_kernel_files_are_looked_at(src, heard, monkeypatch, caplog, error):
    failing = Failing(error)
    monkeypatch.setattr("watchfiles.watch", failing)
    with caplog.at_level(logging.WARNING):
        async with watching(WatchedFiles((str(src),)), heard):
            (src / "a.py").touch()
            await heard.until(src / "a.py")
    assert failing.asked[-1]["force_polling"] is True
    assert f"the kernel watches no more files ({error}): polling all of them instead;" in caplog.text
    assert len(caplog.messages) == 1


@pytest.mark.slow
async def test_a_name_that_is_not_valid_text_ends_nothing(src, heard, caplog):
    async with watching(WatchedFiles((str(src),)), heard):
        for number in range(2):
            (src / os.fsdecode(b"\xff%d" % number)).touch()
            (src / f"{number}.py").touch()
            await heard.until(src / f"{number}.py")
    assert caplog.messages == []


@pytest.mark.slow
async def test_a_folder_that_may_not_be_read_is_passed_over(src, heard, monkeypatch, caplog):
    failing = Failing(PermissionError("no"))
    monkeypatch.setattr("watchfiles.watch", failing)
    async with watching(WatchedFiles((str(src),)), heard):
        (src / "a.py").touch()
        await heard.until(src / "a.py")
    assert failing.asked[-1]["ignore_permission_denied"] is True
    assert caplog.messages == []


async def test_where_nothing_can_be_watched_the_service_runs_on(src, heard, monkeypatch, caplog):
    monkeypatch.setattr("watchfiles.watch", Failing(FULL, FULL))
    async with watching(WatchedFiles((str(src),)), heard):
        pass
    assert (
        "no longer watching files: OS file watch limit reached.; HUP reloads the service" in caplog.messages
    )


async def test_nothing_is_left_where_the_block_fails(src, heard):
    with contextlib.suppress(ZeroDivisionError):
        async with watching(WatchedFiles((str(src),)), heard):
            raise ZeroDivisionError
