"""Files as they are changed by editors, by git and by hand, and what is heard of them: with real files."""

import asyncio
import contextlib
import importlib
import logging
import shutil
from collections.abc import Iterator

import pytest

from everycore.core.changes import WatchedFiles
from everycore.ops.watching import watching
from tests.kit import scaled


class Heard:
    """The changes that have been told."""

    def __init__(self) -> None:
        self._paths: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, paths: list[str]) -> None:
        for path in paths:
            self._paths.put_nowait(path)

    async def until(self, path) -> None:
        """Waits until a change of `path` is told."""
        async with asyncio.timeout(scaled(20)):
            while await self._paths.get() != str(path):
                pass


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
    async with watching(WatchedFiles((str(src),)), heard):
        (src / "a.py").write_text("1")
        await heard.until(src / "a.py")
        (src / "a.py.new").write_text("2")
        (src / "a.py.new").replace(src / "a.py")
        await heard.until(src / "a.py")
        (src / "a.py").rename(src / "b.py")
        await heard.until(src / "b.py")
        (src / "b.py").unlink()
        await heard.until(src / "b.py")
        (src / "__pycache__").mkdir()
        (src / "__pycache__" / "c.py").touch()
        (src / "d.txt").touch()
        (src / "pkg").mkdir()
        (src / "pkg" / "e.py").touch()  # it may be there before anybody watches the folder
        await heard.until(src / "pkg" / "e.py")
        (src / "pkg").rename(src / "other")
        await heard.until(src / "other" / "e.py")
        assert heard._paths.empty()


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
        assert heard._paths.empty()


class Failing:
    """As `watchfiles.watch`; the first times it raises these, and then it watches."""

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
    assert f"the kernel watches no more files ({error}): looking at all of them instead;" in caplog.text
    assert len(caplog.messages) == 1


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
    assert "files are not watched any more: OS file watch limit reached.; HUP reloads" in caplog.messages


async def test_nothing_is_left_where_the_block_fails(src, heard):
    with contextlib.suppress(ZeroDivisionError):
        async with watching(WatchedFiles((str(src),)), heard):
            raise ZeroDivisionError
