"""The JSON schema of `everycore.toml`, for editors and for checks in continuous integration (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from everycore.config.setting import Field

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema(fields: Mapping[str, Sequence[Field]]) -> dict[str, Any]:
    """The schema, from the fields of each command. The top level has the settings of every command."""
    every = [field for command in fields.values() for field in command]
    tables = {command: _table(own) for command, own in fields.items()}
    return {"$schema": _DRAFT, "title": "everycore.toml", **_table(every, tables)}


def _table(fields: Iterable[Field], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in fields:
        words = {"description": field.setting.help}
        if field.default_text:
            words["description"] += f" Default: {field.default_text}."
        # Dashes equal underscores.
        properties[field.key] = properties[field.name] = field.setting.kind.schema() | words
    return {"type": "object", "properties": {**properties, **(more or {})}, "additionalProperties": False}
