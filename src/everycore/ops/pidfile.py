"""The file that tells the primary's process id (`--pid`).

Write it when the service starts, remove it at its end. Invariant: a file that names a living process is left
alone, and a file that is not ours any more is not removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from everycore.errors import ConfigurationError


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Within this block the file is there. None: there is none. Raises ConfigurationError."""
    if path is None:
        yield
        return
    path = os.path.abspath(path)
    other = _living(path)
    if other is not None:
        raise ConfigurationError("--pid", f"{path!r} names process {other}, which is alive; stop it first")
    own = f"{os.getpid()}\n"
    fresh = f"{path}.{os.getpid()}"
    try:
        with open(fresh, "w", encoding="ascii") as file:
            file.write(own)
        os.replace(fresh, path)  # in one step: nobody reads a half of it
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        problem = f"cannot write {path!r}: {(error.strerror or str(error)).lower()}"
        raise ConfigurationError("--pid", problem) from None
    try:
        yield
    finally:
        if _text(path) == own:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _living(path: str) -> int | None:
    text = _text(path).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number in (0, os.getpid()):  # a container's process 1 finds that of its last run
        return None
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return number
    return number


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(100)
    except OSError:
        return ""
