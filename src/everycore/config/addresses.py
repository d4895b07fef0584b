"""The addresses to listen on: `--bind`, or the ways of other servers, `--host` and `--port`, `--uds`, `--fd`.

This module makes one list of binds from five settings. Invariant: the way in the highest layer wins, so
`--port 80` on the command line overrides `bind = ...` in a file. Two ways in the same layer are an error that
names both. The module is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from everycore.config.defaults import HOST, PORT
from everycore.config.layers import Found, Layer
from everycore.errors import ConfigurationError

_ALL_V4: Final = "0.0.0.0"
#: The settings of each way.
_WAYS: Final = (("bind",), ("uds",), ("fd",), ("host", "port"))


def binds_of(found: Mapping[str, Found], activated: Sequence[str]) -> list[str]:
    """The addresses to bind, in the form of `--bind`. `activated`: the sockets that systemd has opened.

    Raises ConfigurationError.
    """
    explicit = [name for way in _WAYS for name in way if found[name].is_explicit]
    if not explicit:
        return _without(found, activated)
    top = max(found[name].layer for name in explicit)
    highest = [name for name in explicit if found[name].layer == top]
    ways = [way for way in _WAYS if not set(way).isdisjoint(highest)]
    if len(ways) > 1:
        one, other = (next(found[name].source for name in way if name in highest) for way in ways[:2])
        raise ConfigurationError(
            one, f"contradicts {other}: give the addresses in one way only; --bind may be repeated"
        )
    match ways[0]:
        case ("bind",):
            return list(found["bind"].value)
        case ("uds",):
            return [f"unix:{found['uds'].value}"]
        case ("fd",):
            return [f"fd://{found['fd'].value}"]
    return [_host_and_port(found)]


def said_by(found: Mapping[str, Found]) -> str:
    """The option that the addresses come from, chosen as `binds_of` chooses."""
    explicit = [name for way in _WAYS for name in way if found[name].is_explicit]
    return f"--{max(explicit, key=lambda name: found[name].layer)}" if explicit else "--bind"


def _without(found: Mapping[str, Found], activated: Sequence[str]) -> list[str]:
    """The addresses if no setting gives any: systemd's sockets, the platform's port, or the default."""
    if activated:
        return list(activated)
    if found["port"].layer == Layer.IMPLIED:
        return [_host_and_port(found)]
    return [f"{HOST}:{PORT}"]


def _host_and_port(found: Mapping[str, Found]) -> str:
    # A platform that assigns ports (by PORT) connects from outside.
    default = _ALL_V4 if found["port"].layer == Layer.IMPLIED else HOST
    host = default if found["host"].value is None else found["host"].value.strip("[]")
    port = found["port"].value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
