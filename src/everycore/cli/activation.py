"""Socket activation: listening sockets that systemd, or a program that does as it does, has opened for us.

Read LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)): the descriptors begin at 3. Invariant: they are ours only
if LISTEN_PID is this process; workers never see the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everycore.errors import ConfigurationError

#: The first descriptor that is handed over (SD_LISTEN_FDS_START).
FIRST: Final = 3
#: To be taken out of the workers' environment.
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated_descriptors(environ: Mapping[str, str], pid: int) -> list[int]:
    """The descriptors that were handed to process `pid`.

    Raises ConfigurationError for a count that is none.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return []
    text = environ["LISTEN_FDS"]
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise ConfigurationError("LISTEN_FDS", f"must be a number of descriptors, not {text!r}")
    return list(range(FIRST, FIRST + int(text)))
