"""Every error that everycore raises on purpose. Anything else that escapes is a bug: please report it.

The errors form one tree, printed here, so that a caller can choose how much to catch. Invariant: fields are
plain values, and the text is made from them.

    EverycoreError
      ConfigurationError      also ValueError: a setting is wrong; names it and the source of its value
      RoleError               also RuntimeError: a primary's call in a worker, or the reverse
      UnsupportedPlatform     also RuntimeError: this system lacks a facility that a cluster needs
      ClusterClosed           also RuntimeError: the cluster is not open (not yet, or no longer)
      BootError               the application could not start in a worker
      MoldFailed              also OSError: a mold could not be prepared, or did not make a worker
      ReloadFailed            not all workers of a pool could be replaced
      ControlError            a running service was not found, or did not do what it was asked to
      ChannelError
        ChannelClosed         also ConnectionError: the peer is gone; `.status` if it is known
        ChannelFull           `send_nowait` found no room
        RequestFailed         the peer's handler raised, or there is none
        RequestTimeout        also TimeoutError: the peer did not answer in time
        ProtocolError         the peer broke the wire protocol
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

#: The most letters of a text that another process or a user has written.
_MOST_LETTERS: Final = 400


def in_a_line(text: str) -> str:
    """`text`, parts of which come from elsewhere, made fit for a line of the log or of a terminal.

    Characters that would end the line or control the terminal are escaped. At most 400 letters are left.
    """
    kept = text[:_MOST_LETTERS]
    if not kept.isprintable():
        kept = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in kept)
    return kept if len(kept) <= _MOST_LETTERS >= len(text) else f"{kept[:_MOST_LETTERS]}..."


def consists_of(error: BaseException, is_one: Callable[[BaseException], bool]) -> bool:
    """Whether `is_one` holds for `error`, or for every error in a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        return all(consists_of(inner, is_one) for inner in error.exceptions)
    return is_one(error)


def is_caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether `error` is of this kind or was caused by one, or is a group of nothing but such errors."""

    def is_one(error: BaseException) -> bool:
        found: BaseException | None = error
        while found is not None and not isinstance(found, kind):
            found = found.__cause__ or found.__context__
        return found is not None

    return consists_of(error, is_one)


class EverycoreError(Exception):
    """The root of the tree."""


class ConfigurationError(EverycoreError, ValueError):
    """A setting is wrong.

    `setting` is its name. `source` is where the value came from (`argument`, an environment variable, ...).
    """

    def __init__(self, setting: str, problem: str, *, source: str = "argument") -> None:
        super().__init__(setting, problem, source)
        self.setting = setting
        self.problem = problem
        self.source = source

    def __str__(self) -> str:
        where = "" if self.source == "argument" else f" (from {self.source})"
        return f"{self.setting}{where}: {self.problem}"


class RoleError(EverycoreError, RuntimeError):
    """A call that belongs to the primary was made in a worker, or the reverse."""


class UnsupportedPlatform(EverycoreError, RuntimeError):
    """A cluster needs a facility that this system does not have."""

    def __init__(self, feature: str, platform: str) -> None:
        super().__init__(feature, platform)
        self.feature = feature
        self.platform = platform

    def __str__(self) -> str:
        return f"{self.feature} needs Linux; this is {self.platform}"


class ClusterClosed(EverycoreError, RuntimeError):
    """The cluster takes no new workers: it was not entered with `async with`, or it is closing."""


class BootError(EverycoreError):
    """From a `Pool`: a worker ended before any was ready. `report` is its traceback, ready to print."""

    def __init__(self, worker: int, report: str) -> None:
        super().__init__(worker, report)
        self.worker = worker
        self.report = report

    def __str__(self) -> str:
        return f"the application cannot start: {self.report}"


class MoldFailed(EverycoreError, OSError):
    """A worker did not start: its mold failed to import, or failed to fork the worker. `report` says why.

    The error is the `error` of the worker's `ExitStatus`. Its text may be a traceback, ready to print.
    """

    def __init__(self, report: str) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return self.report


class ReloadFailed(EverycoreError):
    """A reload ended before all workers were replaced. The old workers that are left go on.

    `worker` is the id of the worker that did not become ready, or None if the pool ends. `report` tells why.
    """

    def __init__(self, worker: int | None, report: str) -> None:
        super().__init__(worker, report)
        self.worker = worker
        self.report = report

    def __str__(self) -> str:
        return f"the reload failed: {self.report}"


class ControlError(EverycoreError):
    """A running service was not found, did not answer, or did not do what it was asked to.

    `kind` is a word for programs, and `text` is one sentence for people. docs/reference/control.md lists the
    kinds.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text


class ChannelError(EverycoreError):
    """The communication between the primary and one worker failed."""


class ChannelClosed(ChannelError, ConnectionError):
    """The other side is gone. `status` is its `ExitStatus` if that is known, else None."""

    def __init__(self, peer: str, status: Any = None) -> None:
        super().__init__()
        self.args = peer, status  # not passed to OSError, which would take them for errno and strerror
        self.peer = peer
        self.status = status

    def __str__(self) -> str:
        how = "" if self.status is None else f" ({self.status})"
        return f"the channel to {self.peer} is closed{how}"


class ChannelFull(ChannelError):
    """`send_nowait` found no room: `waiting` bytes are in the channel's buffer. `await send()` would wait."""

    def __init__(self, peer: str, waiting: int) -> None:
        super().__init__(peer, waiting)
        self.peer = peer
        self.waiting = waiting

    def __str__(self) -> str:
        return f"the channel to {self.peer} is full ({self.waiting} bytes wait)"


class RequestFailed(ChannelError):
    """The peer's handler raised `type_name` with `text`, or the peer has no handler (`LookupError`)."""

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class RequestTimeout(ChannelError, TimeoutError):
    """The peer did not answer within `timeout` seconds. Its `errno` is None."""

    def __init__(self, peer: str, timeout: float) -> None:
        super().__init__()
        self.args = peer, timeout  # not passed to OSError, which would take them for errno and strerror
        self.peer = peer
        self.timeout = timeout

    def __str__(self) -> str:
        return f"{self.peer} did not answer within {self.timeout:g} s"


class ProtocolError(ChannelError):
    """The peer sent something that the wire protocol does not allow. Its channel is given up.

    The text may repeat what the peer has sent: it is one line of limited length.
    """

    def __init__(self, text: str) -> None:
        super().__init__(in_a_line(text))


#: The limit to raise for each error that comes from a limit.
_HINTS: Final = {
    errno.EAGAIN: "no more processes are allowed: ulimit -u, TasksMax of systemd, pids.max of the cgroup",
    errno.ENOMEM: "ulimit -v and -d, memory.max of the cgroup",
    errno.EMFILE: "ulimit -n",
    errno.EFBIG: "ulimit -f",
}


def with_hint(error: OSError) -> OSError:
    """The same error. If it comes from a limit, its text names the limit to raise."""
    hint = _HINTS.get(error.errno or 0)
    return error if hint is None else OSError(error.errno, f"{error.strerror} ({hint})", error.filename)
