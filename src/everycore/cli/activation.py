"""Socket activation: listening sockets that systemd, or a program that does as it does, has opened for us.

Read LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID (sd_listen_fds(3)): the descriptors begin at 3. Invariant: they
are ours only if LISTEN_PID is this process; workers never see the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everycore.core.passed import read_name
from everycore.errors import ConfigurationError

#: The first descriptor that is handed over (SD_LISTEN_FDS_START).
FIRST: Final = 3
#: To be taken out of the workers' environment.
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def passed_descriptors(environ: Mapping[str, str], pid: int) -> dict[int, str]:
    """The descriptors that were handed to process `pid`, and their names ("" where none was given).

    Raises ConfigurationError for a count that is none.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return {}
    text = environ["LISTEN_FDS"]
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise ConfigurationError("LISTEN_FDS", f"must be a number of descriptors, not {text!r}")
    count = int(text)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != count:
        names = [""] * count
    return dict(zip(range(FIRST, FIRST + count), names, strict=True))


def activated_descriptors(environ: Mapping[str, str], pid: int) -> list[int]:
    """Those that systemd has opened for `pid`, without those that an earlier primary has stored.

    Raises ConfigurationError as `passed_descriptors`.
    """
    return [fd for fd, name in passed_descriptors(environ, pid).items() if read_name(name) is None]
