"""The PROXY protocol: the client that a proxy names, and the proxies that are trusted.

The header precedes everything else on a connection (HAProxy's `proxy-protocol.txt`). It is a line of text in
version 1 and binary in version 2. Pure: the bytes so far go in, and the header comes out once it is complete.
Invariant: an incomplete header never has more than `MOST_HEADER` bytes. Bytes that can't become a header are
refused at the first wrong one.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from everycore.settings import EVERYBODY, UNIX_PROXIES

#: The longest header that is read, in bytes. (Version 1 allows 107, version 2 up to 64 KiB. In practice no
#: proxy sends more than a few hundred.)
MOST_HEADER: Final = 4096
_LONGEST_LINE: Final = 107
_TEXT: Final = b"PROXY "
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: Version and command, family and kind, number of bytes that follow.
_REST: Final = struct.Struct("!BBH")
_PREFIX: Final = len(_BINARY) + _REST.size
_STREAM_OF: Final = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}
_ADDRESS_OF: Final = {0x11: ipaddress.IPv4Address, 0x21: ipaddress.IPv6Address}
#: The kinds "unspecified" and "unix stream".
_NO_ADDRESS: Final = frozenset({0x00, 0x31})
_LOCAL, _PROXIED = 0x20, 0x21
_FAMILIES: Final = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}
_MOST_PORT: Final = 0xFFFF
#: Peer addresses that are remembered at most.
_REMEMBERED: Final = 8192


class Header(NamedTuple):
    """A header of `size` bytes. `peer` is the client's address as `accept` would return it.

    `peer` is None if the proxy connects on its own behalf, or does not name the client.
    """

    size: int
    peer: tuple[Any, ...] | None


def read_header(data: bytes) -> Header | None:
    """Return the header at the beginning of `data`, or None if it is still incomplete.

    Raises ValueError if `data` does not begin with a header.
    """
    if data[: len(_BINARY)] == _BINARY[: len(data)]:
        return _read_binary(data) if len(data) >= _PREFIX else None
    if data[: len(_TEXT)] == _TEXT[: len(data)]:
        return _read_line(data)
    raise ValueError("there is none")


def _read_line(data: bytes) -> Header | None:
    line, end, _ = data[:_LONGEST_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_LINE:
            raise ValueError("its line does not end")
        return None
    size = len(line) + len(end)
    match line.split(b" "):
        case [_, b"UNKNOWN", *_]:
            return Header(size, None)
        case [_, (b"TCP4" | b"TCP6") as family, source, destination, port, other_port]:
            make = _FAMILIES[family]
            make(destination.decode("ascii"))
            _port(other_port)
            return Header(size, _peer(make(source.decode("ascii")), _port(port)))
    raise ValueError("its line is not of version 1")


def _port(digits: bytes) -> int:
    if not digits.isdigit() or int(digits) > _MOST_PORT:
        raise ValueError("its line has no port")
    return int(digits)


def _read_binary(data: bytes) -> Header | None:
    command, kind, length = _REST.unpack_from(data, len(_BINARY))
    size = _PREFIX + length
    if command not in (_LOCAL, _PROXIED):
        raise ValueError("it is neither of version 1 nor of version 2")
    if size > MOST_HEADER:
        raise ValueError(f"it is longer than {MOST_HEADER} bytes")
    addresses = _STREAM_OF.get(kind)
    if command == _PROXIED:
        if addresses is None and kind not in _NO_ADDRESS:
            raise ValueError(f"it is of another kind of connection (0x{kind:02x})")
        if addresses is not None and length < addresses.size:
            raise ValueError("it has no room for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL or addresses is None:
        return Header(size, None)
    source, _, port, _ = addresses.unpack_from(data, _PREFIX)
    return Header(size, _peer(_ADDRESS_OF[kind](source), port))


def _peer(address: object, port: int) -> tuple[Any, ...]:
    return (str(address), port) if isinstance(address, ipaddress.IPv4Address) else (str(address), port, 0, 0)


# --- trust -------------------------------------------------------------------------------------------------


class Proxies:
    """The trusted proxies, each in a form that `settings.check_proxy` accepts."""

    def __init__(self, names: Iterable[str]) -> None:
        names = tuple(names)
        self._has_everybody = EVERYBODY in names
        self._has_unix = UNIX_PROXIES in names
        self._networks = [
            ipaddress.ip_network(name) for name in names if name not in (EVERYBODY, UNIX_PROXIES)
        ]
        #: Addresses that were looked up -> whether each is trusted.
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        """Whether any proxy is trusted."""
        return self._has_everybody or self._has_unix or bool(self._networks)

    @property
    def have_no_address(self) -> bool:
        """Whether peers that connect by a unix socket are trusted."""
        return self._has_everybody or self._has_unix

    def has(self, peer: Any) -> bool:
        """Whether `peer`, an address as `accept` returns it, is a trusted proxy."""
        if not isinstance(peer, (tuple, list)):
            return self.have_no_address
        host = peer[0]
        found = self._known.get(host)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[host] = self._has_everybody or self._find(host)
        return found

    def _find(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)
