"""The value of `--bind`: an address to listen on, in one of these forms.

    HOST:PORT    [V6]:PORT    unix:PATH    fd://N    HOST    [V6]    PORT    :PORT

The default host is this machine alone, 127.0.0.1. A colon before the port stands for every IPv4 address, as
in Go and gunicorn. The default port is 8000.

This module parses addresses, refuses malformed and repeated ones, and writes them out again. Invariant: it
handles text alone, with no socket and no resolver, and a `Bind` that exists is well-formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from everycore.config.defaults import HOST, PORT
from everycore.errors import ConfigurationError

FORMS = "HOST:PORT, [V6]:PORT, HOST, PORT, unix:PATH or fd://N"
_ALL_V4: Final = "0.0.0.0"


class TcpBind(msgspec.Struct, frozen=True):
    """A host (a name, or an address without brackets) and a port. 0 is a free port of the kernel's choice."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixBind(msgspec.Struct, frozen=True):
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class FdBind(msgspec.Struct, frozen=True):
    """A descriptor that the primary has inherited, already bound."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


Bind = TcpBind | UnixBind | FdBind


def parse_binds(texts: Sequence[str], option: str = "--bind") -> list[Bind]:
    """Parse all, in order. Raises ConfigurationError, also if two are the same (free ports never are)."""
    binds: list[Bind] = []
    for text in texts:
        bind = parse_bind(text, option)
        if bind in binds and not (isinstance(bind, TcpBind) and bind.port == 0):
            raise ConfigurationError(option, f"{bind} is given twice")
        binds.append(bind)
    return binds


def parse_bind(text: str, option: str = "--bind") -> Bind:
    """Parse one address. Raises ConfigurationError."""
    # The bytes of a path need not be text: os.fsdecode turns those that are not into surrogates.
    readable = "".join(letter for letter in text if not "\udc80" <= letter <= "\udcff")
    if not readable.isprintable() or not text:
        raise ConfigurationError(option, f"must be {FORMS}, not {text!r}")
    if text.startswith("unix:"):
        return _unix(text, option)
    if text.startswith("fd:"):
        return _fd(text, option)
    return _tcp(text, option)


def _unix(text: str, option: str) -> Bind:
    path = text.removeprefix("unix:")
    if not path:
        raise ConfigurationError(option, f"the path is missing in {text!r}")
    return UnixBind(path)


def _fd(text: str, option: str) -> Bind:
    number = text.removeprefix("fd://")
    if not _is_number(number):
        raise ConfigurationError(option, f"must be fd:// and a number, not {text!r}")
    return FdBind(int(number))


def _tcp(text: str, option: str) -> Bind:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_v6(host):
            raise ConfigurationError(option, f"must be [V6]:PORT with an IPv6 address, not {text!r}")
        if rest and not rest.startswith(":"):
            raise ConfigurationError(option, f"must be {FORMS}, not {text!r}")
        port = rest[1:] if rest else str(PORT)
    else:
        host, port = _split(text, option)
    if not _is_number(port):
        raise ConfigurationError(option, f"must be {FORMS}, not {text!r}")
    if int(port) > 65535:
        raise ConfigurationError(option, f"the port must be between 0 and 65535, not {port}")
    return TcpBind(host.lower(), int(port))


def _split(text: str, option: str) -> tuple[str, str]:
    """The host and port of an address without brackets."""
    if _is_number(text):
        return HOST, text
    host, colon, port = text.rpartition(":")
    if "/" in text:
        hint = f"; the path of a unix socket is unix:{text}" if colon == "" else ""
        raise ConfigurationError(option, f"must be {FORMS}, not {text!r}{hint}")
    if ":" in host:
        raise ConfigurationError(option, f"an IPv6 address needs brackets, as in [::1]:8000, unlike {text!r}")
    if not colon:
        return text, str(PORT)
    return host or _ALL_V4, port


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _is_v6(host: str) -> bool:
    import ipaddress  # late: most addresses have no colon in them

    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
