"""The engine's options, as `everycore serve` takes them. Imports the engine: only where one is asked for."""

from __future__ import annotations

import functools

from everycore.cli.answers import ANSWERS
from everycore.cli.options import own_fields, taken
from everycore.config.setting import Field
from everycore.servers.engine_options import engine_fields


@functools.cache
def engine() -> tuple[Field, ...]:
    """The options of the engine that are neither ours nor refused."""
    return engine_fields(taken(own_fields("serve")) | frozenset(ANSWERS))
