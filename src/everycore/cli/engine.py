"""The engines' options, as `everycore serve` takes them. This module imports uvicorn, and only on demand.

The tables of options are imported late too: most services start without any of these options.
"""

from __future__ import annotations

import functools
import importlib.util

from everycore.cli.options import Values, own_fields, taken
from everycore.config.setting import EngineField, Field
from everycore.errors import ConfigurationError

#: The module that an engine needs, and the extra that brings it.
_NEEDS = {"uvicorn": ("uvicorn", "standard"), "hypercorn": ("hypercorn", "hypercorn")}


@functools.cache
def engine() -> tuple[Field, ...]:
    """The options of the engines, without those that everycore has itself or answers."""
    from everycore.cli.answers import ANSWERS
    from everycore.servers.engine_options import engine_fields
    from everycore.servers.hypercorn_options import hypercorn_fields

    of_uvicorn = engine_fields(taken(own_fields("serve")) | frozenset(ANSWERS))
    return *of_uvicorn, *hypercorn_fields(frozenset(field.name for field in of_uvicorn))


def check_engine(values: Values, engine: str) -> None:
    """Raise ConfigurationError if this engine lacks an option that was given."""
    fields = [field for field in values.fields if isinstance(field, EngineField)]
    given = [field for field in fields if values.found[field.name].is_explicit]
    if not given:
        return
    from everycore.servers.hypercorn_options import QUIC, check_option

    for field in given:
        check_option(engine, field.option, field.parameter, values.found[field.name].value)
    if QUIC in values.found and values.found[QUIC].value:
        _check_quic(values)


def _check_quic(values: Values) -> None:
    found = values.found
    if not found["ssl_certfile"].value:
        raise ConfigurationError("--quic-bind", "needs a certificate too: --ssl-certfile FILE")
    if found["workers"].value != 1:
        raise ConfigurationError(
            "--quic-bind",
            "needs --workers 1: the kernel gives each datagram to any worker, and HTTP/3 needs all those of a"
            " connection in one worker",
        )
    if found["surge"].value != 0:
        raise ConfigurationError(
            "--quic-bind", "needs --surge 0: during a reload, two workers at once would share the datagrams"
        )


def require_engine(engine: str, values: Values) -> None:
    """Raise ConfigurationError if the engine is not installed."""
    module, extra = _NEEDS[engine]
    if _is_missing(module):
        option = "serve" if engine == "uvicorn" else f"--engine {engine}"
        raise ConfigurationError(option, f"needs {engine}: pip install 'everycore[{extra}]'")
    if engine == "hypercorn":
        _require_quic(values)


def _require_quic(values: Values) -> None:
    from everycore.servers.hypercorn_options import QUIC

    if QUIC in values.found and values.found[QUIC].value and _is_missing("aioquic"):
        raise ConfigurationError("--quic-bind", "needs aioquic: pip install 'everycore[h3]'")


def _is_missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None
