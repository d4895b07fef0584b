"""A validator for the part of JSON Schema that the schemas beside this file need.

schemas/kubernetes.json and schemas/compose.json are those of their projects (Apache License 2.0), without the
descriptions. An unknown keyword is an error, so that nothing is skipped.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "schemas"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
#: Notes for people and for other tools.
_NOTES = {"$comment", "default", "format", "definitions", "$defs", "deprecated", "examples"}


def load(name: str) -> dict[str, Any]:
    """Load a schema of the folder."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def faults(value: Any, schema: Any, root: dict[str, Any], place: str = "") -> Iterator[str]:
    """What is wrong with `value`, and where. root: the whole schema, at which references begin."""
    if isinstance(schema, bool):
        if not schema:
            yield f"{place}: is not known"
        return
    for word, rule in schema.items():
        if word in _NOTES:
            continue
        if word in _PLAIN:
            if (fault := _PLAIN[word](value, rule)) is not None:
                yield f"{place}: {fault}"
        elif word in _NESTED:
            yield from _NESTED[word](value, rule, root, place)
        elif word in _OTHERS:
            yield from _others(value, schema, root, place)
        else:
            msg = f"{place}: {word} is not known here"
            raise NotImplementedError(msg)


# Rules about the value alone


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (isinstance(value, bool) and name != "boolean")


def _type(value: Any, rule: Any) -> str | None:
    types = [rule] if isinstance(rule, str) else rule
    return None if any(_is(value, name) for name in types) else f"must be {' or '.join(types)}, not {value!r}"


def _required(value: Any, rule: Any) -> str | None:
    missing = [name for name in rule if name not in value] if isinstance(value, dict) else []
    return f"lacks {', '.join(missing)}" if missing else None


def _enum(value: Any, rule: Any) -> str | None:
    return None if value in rule else f"must be one of {rule!r}, not {value!r}"


def _pattern(value: Any, rule: Any) -> str | None:
    is_wrong = isinstance(value, str) and not re.search(rule, value)
    return f"{value!r} is not of the form {rule}" if is_wrong else None


def _unique(value: Any, rule: Any) -> str | None:
    is_wrong = rule and isinstance(value, list) and any(item in value[:at] for at, item in enumerate(value))
    return "has something twice" if is_wrong else None


def _least(value: Any, rule: Any) -> str | None:
    is_wrong = isinstance(value, int | float) and not isinstance(value, bool) and value < rule
    return f"must be at least {rule}, not {value!r}" if is_wrong else None


def _shortest(value: Any, rule: Any) -> str | None:
    return f"is too short: {value!r}" if isinstance(value, str | list | dict) and len(value) < rule else None


_PLAIN: dict[str, Callable[[Any, Any], str | None]] = {
    "type": _type,
    "required": _required,
    "enum": _enum,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "minimum": _least,
    "minLength": _shortest,
    "minItems": _shortest,
    "minProperties": _shortest,
}

# Rules about what is inside


def _reference(value: Any, rule: Any, root: dict[str, Any], place: str) -> Iterator[str]:
    target: Any = root
    for step in rule.removeprefix("#/").split("/"):
        target = target[step]
    yield from faults(value, target, root, place)


def _properties(value: Any, rule: Any, root: dict[str, Any], place: str) -> Iterator[str]:
    for name in rule.keys() & value.keys() if isinstance(value, dict) else ():
        yield from faults(value[name], rule[name], root, f"{place}.{name}")


def _items(value: Any, rule: Any, root: dict[str, Any], place: str) -> Iterator[str]:
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield from faults(item, rule, root, f"{place}[{number}]")


def _any_of(value: Any, rule: Any, root: dict[str, Any], place: str) -> Iterator[str]:
    each = [list(faults(value, choice, root, place)) for choice in rule]
    if all(each):
        yield f"{place}: has none of its forms: {each}"


def _one_of(value: Any, rule: Any, root: dict[str, Any], place: str) -> Iterator[str]:
    each = [list(faults(value, choice, root, place)) for choice in rule]
    if sum(not found for found in each) != 1:
        yield f"{place}: has not exactly one of its forms: {each}"


_NESTED: dict[str, Callable[[Any, Any, dict[str, Any], str], Iterator[str]]] = {
    "$ref": _reference,
    "properties": _properties,
    "items": _items,
    "anyOf": _any_of,
    "oneOf": _one_of,
}

#: Rules about members that `properties` does not name.
_OTHERS = ("additionalProperties", "patternProperties")


def _others(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str) -> Iterator[str]:
    patterns = schema.get("patternProperties", {})
    rest = schema.get("additionalProperties", True)
    for name, member in value.items() if isinstance(value, dict) else ():
        if name not in schema.get("properties", {}):
            matching = [rule for pattern, rule in patterns.items() if re.search(pattern, name)]
            for rule in matching or [rest]:
                yield from faults(member, rule, root, f"{place}.{name}")
