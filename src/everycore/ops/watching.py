"""Watches files with watchfiles, in threads, and tells the loop which relevant ones have changed.

This is the edge of `core.changes`. Invariant: `changed` is called in the loop, and never after the block. No
thread outlives the block. Threads do no harm in this primary, which starts workers by exec
(`system.processes`).

Facts about watchfiles 1.x on inotify: a new folder is reported by its own name only, whatever it holds by
then; so is a folder that is moved. A watched folder that was removed is not watched when it comes back. With
`ignore_permission_denied` no limit of the kernel is reported. The first time-out means that everything is
watched. A changed file whose name is not UTF-8 causes an error, and all other changes of that moment are
lost.
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

#: How often to check for changes, in milliseconds. A stop waits that long.
STEP: Final = 50
#: How often to check whether a watched folder that is gone has come back, in seconds.
LOOK: Final = 0.5
#: How far back to look for changes that an error of watchfiles has hidden, in seconds.
LATELY: Final = 2.0
_DELETED: Final = 3
_ADDED: Final = 1

Changed = Callable[[list[str]], object]


@asynccontextmanager
async def watching(watch: WatchedFiles, changed: Changed) -> AsyncIterator[None]:
    """Call `changed` with the relevant paths. The block begins when everything is watched.

    Raises ImportError if watchfiles is broken.
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
    """One thread, and the folders that it watches. `watches` is done once they are watched."""

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
        #: Further arguments of `watchfiles.watch`.
        self._how: dict[str, Any] = {}
        #: Folders that have come back. Their files are reported once they are watched. Earlier, a file that
        #: is made after the look into its folder, and before the watch, would be missed by both.
        self._returned: list[str] = []
        #: Whether the folders were watched since the last error, and whether changes before it are
        #: unreported.
        self._is_watching = self._is_behind = False
        self._is_gone = False

    def run(self) -> None:
        """Watch until the end."""
        was_there = self._folders
        while not self._end.is_set():
            there = [folder for folder in self._folders if os.path.isdir(folder)]
            self._returned += [folder for folder in there if folder not in was_there]
            try:
                self._watch_while_there(there)
            except FileNotFoundError:
                pass  # a folder has just been removed
            except PermissionError:
                self._how["ignore_permission_denied"] = True
            except Exception as error:  # watchfiles has errors of its own, which are not OSErrors
                self._is_behind = self._is_watching  # a passing error: the changes of that moment are lost
                if not self._is_watching and not self._fall_back(error):
                    return
            was_there = [folder for folder in there if os.path.isdir(folder) and not self._is_gone]

    def _watch_while_there(self, there: list[str]) -> None:
        """Watch these folders until one of them is gone or another one comes back."""
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
        """The files that a change concerns."""
        yield path
        if kind == _ADDED and self._is_recursive and os.path.isdir(path):
            yield from self._files_in(path)

    def _files_in(self, folder: str) -> Iterator[str]:
        for root, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if self._watch.enters(os.path.join(root, name))]
            yield from (os.path.join(root, name) for name in files)

    def _fall_back(self, error: Exception) -> bool:
        """Watch by polling from now on. Returns False if polling has failed too."""
        if self._how.get("force_polling"):
            self._post(log.error, "no longer watching files: %s; HUP reloads the service", error)
            self._post(self._is_up)
            return False
        self._how = {"force_polling": True, "ignore_permission_denied": True}
        self._post(
            log.warning,
            "the kernel watches no more files (%s): polling all of them instead; raise"
            " fs.inotify.max_user_watches, or name fewer folders with --reload-dir",
            error,
        )
        return True

    # --- in the loop --------------------------------------------------------------------------------------

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
