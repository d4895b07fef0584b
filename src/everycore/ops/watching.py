"""Watches files by watchfiles, in threads, and tells the loop which of those that count have changed.

The edge of `core.changes`. Invariant: `changed` is called in the loop, and never after the block; no thread
outlives it. A thread does no harm in this primary: it starts workers by exec (`system.processes`).

Facts (watchfiles 1.x, inotify): a folder that appears is told by its own name alone, whatever is in it by
then; so is one that is moved. A watched folder that is removed is not watched when it is there again. With
`ignore_permission_denied` no limit of the kernel is told. The first time-out says that everything is watched.
A changed file whose name is not UTF-8 is an error, and nothing else is told of that moment.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any, Final

from everycore.core.changes import WatchedFiles, outermost

log = logging.getLogger("everycore.ops")

#: How often to look whether there is news, in milliseconds; a stop waits for that.
STEP: Final = 50
#: How often to look for a watched folder that is gone, in seconds.
LOOK: Final = 0.5
#: So far back a change is looked for that an error of watchfiles has kept from us, in seconds.
LATELY: Final = 2.0
_DELETED: Final = 3
_ADDED: Final = 1

Changed = Callable[[list[str]], object]


@asynccontextmanager
async def watching(watch: WatchedFiles, changed: Changed) -> AsyncIterator[None]:
    """Call `changed` with the paths that count. The block begins when everything is watched.

    Raises ImportError: watchfiles is broken.
    """
    look = importlib.import_module("watchfiles").watch
    end = threading.Event()
    watchers = [_Watcher(look, end, watch, list(outermost(watch.folders)), changed, recursive=True)]
    beside = {os.path.dirname(path) for path in watch.files}
    if beside := {folder for folder in beside if not watch.enters(folder)}:
        watchers.append(_Watcher(look, end, watch, sorted(beside), changed, recursive=False))
    try:
        for watcher in watchers:
            watcher.start()
        await asyncio.gather(*(watcher.watches for watcher in watchers))
        yield
    finally:
        end.set()
        for watcher in watchers:
            watcher.join()


class _Watcher(threading.Thread):
    """One thread, and the folders that it watches. `watches` is done when it does."""

    def __init__(
        self,
        look: Callable[..., Any],
        end: threading.Event,
        watch: WatchedFiles,
        folders: list[str],
        changed: Changed,
        *,
        recursive: bool,
    ) -> None:
        super().__init__(name="everycore watches files")
        self._look = look
        self._end = end
        self._watch = watch
        self._folders = folders
        self._changed = changed
        self._is_recursive = recursive
        self._loop = asyncio.get_running_loop()
        self.watches: asyncio.Future[None] = self._loop.create_future()
        #: Beside the usual arguments.
        self._how: dict[str, Any] = {}
        #: Folders that are there again: what is in them is told once they are watched. Before, a file that
        #: comes behind the look into its folder, and ahead of the watch, would be told by neither.
        self._returned: list[str] = []
        #: The folders have been watched since the last error; changes before are still to be told.
        self._is_watching = self._is_behind = False
        self._is_gone = False

    def run(self) -> None:
        """Watch, until the end."""
        was_there = self._folders
        while not self._end.is_set():
            there = [folder for folder in self._folders if os.path.isdir(folder)]
            self._returned += [folder for folder in there if folder not in was_there]
            try:
                self._watch_while_there(there)
            except FileNotFoundError:
                pass  # one of them has just gone
            except PermissionError:
                self._how["ignore_permission_denied"] = True
            except Exception as error:  # watchfiles has errors of its own, which are no OSError
                self._is_behind = self._is_watching  # an error of one moment, whose changes are lost
                if not self._is_watching and not self._fall_back(error):
                    return
            was_there = [folder for folder in there if os.path.isdir(folder) and not self._is_gone]

    def _watch_while_there(self, there: list[str]) -> None:
        """Watch these folders, as long as they are all there and no other one is."""
        self._is_gone = self._is_watching = False
        missing = set(self._folders) - set(there)
        if not there:
            self._post(self._is_up)
            self._end.wait(LOOK)
            return
        changes = self._look(
            *there,
            watch_filter=None,
            step=STEP,
            rust_timeout=1,
            yield_on_timeout=True,
            stop_event=self._end,
            raise_interrupt=False,
            recursive=self._is_recursive,
            **self._how,
        )
        with closing(changes):
            for found in changes:
                self._is_watching = True
                self._post(self._is_up)
                if self._returned:
                    returned, self._returned = self._returned, []
                    self._tell(path for folder in returned for path in self._files_in(folder))
                if self._is_behind:
                    self._is_behind = False
                    self._tell(self._changed_lately())
                if found:
                    self._tell(path for change in found for path in self._files_of(*change))
                self._is_gone = any(kind == _DELETED and path in there for kind, path in found)
                if self._is_gone or (missing and any(map(os.path.isdir, missing))):
                    return

    def _changed_lately(self) -> Iterator[str]:
        since = time.time() - LATELY
        for folder in self._folders:
            for path in self._files_in(folder):
                with suppress(OSError):
                    if os.stat(path).st_ctime >= since:
                        yield path

    def _files_of(self, kind: int, path: str) -> Iterator[str]:
        """The files that a change is about."""
        yield path
        if kind == _ADDED and self._is_recursive and os.path.isdir(path):
            yield from self._files_in(path)

    def _files_in(self, folder: str) -> Iterator[str]:
        for root, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if self._watch.enters(os.path.join(root, name))]
            yield from (os.path.join(root, name) for name in files)

    def _fall_back(self, error: Exception) -> bool:
        """Look at every file now and then; False if that is what has failed."""
        if self._how.get("force_polling"):
            self._post(log.error, "files are not watched any more: %s; HUP reloads", error)
            self._post(self._is_up)
            return False
        self._how = {"force_polling": True, "ignore_permission_denied": True}
        self._post(
            log.warning,
            "the kernel watches no more files (%s): looking at all of them instead; raise"
            " fs.inotify.max_user_watches, or name fewer folders by --reload-dir",
            error,
        )
        return True

    # --- the loop's ---------------------------------------------------------------------------------------

    def _tell(self, paths: Iterable[str]) -> None:
        if counting := sorted({path for path in paths if self._watch.counts(path)}):
            self._post(self._changed, counting)

    def _post(self, what: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon_threadsafe(self._do, what, args)

    def _do(self, what: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self._end.is_set():
            what(*args)

    def _is_up(self) -> None:
        if not self.watches.done():
            self.watches.set_result(None)
