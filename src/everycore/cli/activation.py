"""Socket activation: listening sockets that systemd, or a similar program, has opened for this process.

The variables are LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID (sd_listen_fds(3)). The descriptors begin at 3.
Invariant: the descriptors are this process's only if LISTEN_PID is its pid. Workers never see the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everycore.core.passed import read_name
from everycore.errors import ConfigurationError

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST: Final = 3
#: The variables that are removed from the workers' environment.
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def passed_descriptors(environ: Mapping[str, str], pid: int) -> dict[int, str]:
    """The descriptors that were passed to process `pid`, each with its name ("" if it was given none).

    Raises ConfigurationError if LISTEN_FDS is not a number.
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
    """The descriptors that systemd has opened for `pid`, without those that an earlier primary has stored.

    Raises ConfigurationError as `passed_descriptors` does.
    """
    return [fd for fd, name in passed_descriptors(environ, pid).items() if read_name(name) is None]
