"""Where to listen: `--bind`, or as others say it: `--host` and `--port`, `--uds`, `--fd`.

Make one list of binds of five settings. Invariant: the way that stands in the highest layer wins, so
that `--port 80` of a command line goes before `bind = ...` of a file; two ways in one layer are an error
that names both. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from everycore.config.defaults import HOST, PORT
from everycore.config.layers import Found, Layer
from everycore.errors import ConfigurationError

_ALL_V4: Final = "0.0.0.0"
#: The settings that each way consists of.
_WAYS: Final = (("bind",), ("uds",), ("fd",), ("host", "port"))


def binds_of(found: Mapping[str, Found], activated: Sequence[str]) -> list[str]:
    """What to bind, as `--bind` would have it. `activated`: the sockets that systemd has opened for us.

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
            one, f"contradicts {other}: say where to listen in one way; --bind may be repeated"
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
    """The option that has said where, in the same way as `binds_of` chooses."""
    explicit = [name for way in _WAYS for name in way if found[name].is_explicit]
    return f"--{max(explicit, key=lambda name: found[name].layer)}" if explicit else "--bind"


def _without(found: Mapping[str, Found], activated: Sequence[str]) -> list[str]:
    """Nobody has said where: systemd's sockets, else the port that a platform has given us, else ours."""
    if activated:
        return list(activated)
    if found["port"].layer == Layer.IMPLIED:
        return [_host_and_port(found)]
    return [f"{HOST}:{PORT}"]


def _host_and_port(found: Mapping[str, Found]) -> str:
    # A platform that gives out ports (PORT) asks from outside.
    default = _ALL_V4 if found["port"].layer == Layer.IMPLIED else HOST
    host = default if found["host"].value is None else found["host"].value.strip("[]")
    port = found["port"].value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
