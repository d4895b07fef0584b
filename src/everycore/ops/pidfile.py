"""The pid file (`--pid`): the file that holds the primary's process id.

The primary writes it at the start and removes it at the end. Invariant: a file that names a living process is
left alone, and so is anything that is not a regular file (`/dev/null`). A file that another process has
replaced is not removed. A symbolic link stays: its target is the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from everycore.errors import ConfigurationError
from everycore.system.plain_files import open_plain, reason_of, why_not_written

#: The mode of the file, whatever the umask says, which is for what the service makes: monitors of other users
#: read the file, and only its owner may say which process they signal.
_MODE: Final = 0o644


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Within this block the file exists. `path` None: there is no file. Raises ConfigurationError."""
    if path is None:
        yield
        return
    path = os.path.realpath(path)
    check_pid_file(path)
    other = _living(path)
    if other is not None:
        raise ConfigurationError("--pid", f"{path!r} names process {other}, which is alive; stop it first")
    own = f"{os.getpid()}\n"
    fresh = f"{path}.{os.getpid()}"
    try:
        with open(fresh, "w", encoding="ascii") as file:
            file.write(own)
            os.fchmod(file.fileno(), _MODE)
        os.replace(fresh, path)  # in one step: a reader never sees a half-written file
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        problem = f"cannot write {path!r}: {reason_of(error)}"
        raise ConfigurationError("--pid", problem) from None
    try:
        yield
    finally:
        if _text(path) == own:
            with contextlib.suppress(OSError):
                os.unlink(path)


def check_pid_file(path: str) -> None:
    """Raise ConfigurationError for a path at which no file can be written."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        problem = "is a directory"
    elif os.path.exists(path) and not os.path.isfile(path):
        problem = "it is not a regular file"  # the pid file would replace it
    elif not os.path.isdir(folder):
        problem = f"there is no folder {folder!r}"
    elif (reason := why_not_written(folder)) is not None:
        problem = f"in {folder!r}, {reason}"
    else:
        return
    raise ConfigurationError("--pid", f"cannot write {path!r}: {problem}")


def _living(path: str) -> int | None:
    text = _text(path).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number in (0, os.getpid()):  # process 1 of a container finds the file of its previous run
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
        with open_plain(path) as file:
            return file.read(100).decode("ascii", "replace")
    except OSError:
        return ""
