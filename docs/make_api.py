"""Draws the pages of names, events and errors from the signatures and docstrings of the code.

Each name has a place in its page, below a heading of its own; the text around that place is written by hand.
A public name, or a public member of one, must have a docstring, otherwise the drawing fails.

python docs/make_api.py [--check]    # rewrites the pages; --check only says whether they are current
"""

import enum
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from drawn import filled

import everycore
from everycore import errors, events, testing

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 100
#: Members that are public in Python but not promised: they are for the rest of everycore.
NOT_PROMISED: Mapping[str, frozenset[str]] = {
    "ClusterSocket": frozenset(
        {"abandon", "grant", "granted", "tell_primary", "tell_primary_reliably", "when_closed"}
    ),
    "VirtualTimeLoop": frozenset({"run_in_executor", "settle", "shutdown_default_executor"}),
}
#: Classes that a program instantiates. everycore makes the others, or they are structs, whose fields are
#: listed.
CONSTRUCTED = frozenset({"Cluster", "Pool", "FakeWorkers", "VirtualTimeLoop"})
_ARGUMENT = re.compile(r"([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", re.DOTALL)


class Undocumented(ValueError):
    """A public name lacks a docstring."""


def entry(module: Any, name: str) -> str:
    """The part below the heading of a public name: its signature, its docstring, its members."""
    value = getattr(module, name)
    if isinstance(value, type):
        parts = [signature(name, value), prose(docstring(name, value))]
        parts += members(name, value)
    elif inspect.isfunction(value):
        parts = [signature(name, value), prose(docstring(name, value))]
    else:
        parts = [prose(comment(module, name))]
    return "\n\n".join(part for part in parts if part)


def members(owner: str, cls: type) -> Iterator[str]:
    """The states of an enum, the fields of a struct, then each member under a heading."""
    if issubclass(cls, enum.Enum):
        yield ", ".join(f"`{member.name}`" for member in cls) + "."
        return
    if issubclass(cls, msgspec.Struct):
        yield from fields(cls)
    for name in own_members(owner, cls):
        value = inspect.getattr_static(cls, name)
        where = f"{owner}.{name}"
        if isinstance(value, property):
            shown = f"    {name}: {returned(value.fget)}"
            yield f"#### `{where}`\n\n{shown}\n\n{prose(docstring(where, value))}"
        elif callable(getattr(cls, name)):
            shown = signature(name, getattr(cls, name), bound=True)
            yield f"#### `{where}`\n\n{shown}\n\n{prose(docstring(where, getattr(cls, name)))}"


def own_members(owner: str, cls: type) -> list[str]:
    """The public methods and properties that everycore itself defines in a class, in source order."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("everycore"):
            own = vars(base)
            found |= {
                name: None
                for name in own
                if not name.startswith("_")
                and (isinstance(own[name], property) or callable(getattr(cls, name)))
            }
    return [name for name in found if name not in NOT_PROMISED.get(owner, ())]


def fields(cls: type[msgspec.Struct]) -> Iterator[str]:
    own = cls.__struct_fields__
    annotations: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        annotations |= inspect.get_annotations(base)
    if own:
        yield "Fields: " + ", ".join(f"`{name}: {plain(annotations[name])}`" for name in own) + "."


def signature(name: str, value: Any, *, bound: bool = False) -> str:
    """The call as code, on one line if it fits."""
    if isinstance(value, type) and name not in CONSTRUCTED:
        return ""
    found = inspect.signature(value)
    parameters = list(found.parameters.values())[1 if bound else 0 :]
    words = list(spelled(parameters))
    kind = "async " if inspect.iscoroutinefunction(value) else ""
    result = plain(found.return_annotation) if found.return_annotation is not found.empty else ""
    tail = f" -> {result}" if result and not isinstance(value, type) else ""
    line = f"{kind}{name}({', '.join(words)}){tail}"
    if len(line) > WIDTH:
        line = f"{kind}{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){tail}"
    return textwrap.indent(line, "    ")


def spelled(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Parameters as they are written, with the marks `*` and `/`."""
    starred = False
    for at, parameter in enumerate(parameters):
        kind = parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            starred = True
        if kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        star = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
        text = f"{star}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            text += f": {plain(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        yield text
        rest = parameters[at + 1 :]
        if kind is parameter.POSITIONAL_ONLY and not (rest and rest[0].kind is kind):
            yield "/"


def default(value: Any) -> str:
    if inspect.isfunction(value):
        return value.__name__
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__.partition('.')[0]}.{value.name}"
    return repr(value)


def plain(annotation: Any) -> str:
    """An annotation as a reader writes it."""
    return str(getattr(annotation, "__name__", annotation)) if not isinstance(annotation, str) else annotation


def returned(getter: Any) -> str:
    return plain(inspect.signature(getter).return_annotation)


def docstring(name: str, value: Any) -> str:
    text = inspect.getdoc(value)
    if not text:
        raise Undocumented(f"{name} has no docstring")
    return text


def comment(module: Any, name: str) -> str:
    """The `#:` comment above the assignment of a constant or an alias."""
    for path in sorted(Path(everycore.__file__).parent.rglob("*.py")):
        found = re.search(
            rf"((?:^#:? .*\n)+){name}\b(?:: .*)? = ", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        if found and found[1].startswith("#: "):
            return re.sub(r"^#:? ?", "", found[1], flags=re.MULTILINE).strip()
    raise Undocumented(f"{module.__name__}.{name} has no comment")


def prose(text: str) -> str:
    """A docstring as Markdown: arguments become a list, indented code is kept."""
    parts = []
    for part in text.split("\n\n"):
        lines = part.splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            parts.append(part)
        elif lines and _ARGUMENT.match(lines[0]):
            parts.append("\n".join(arguments(lines)))
        else:
            parts.append(part)
    return "\n\n".join(parts)


def arguments(lines: list[str]) -> Iterator[str]:
    """`name: text` with its continuation lines, as items of a list."""
    for line in lines:
        found = _ARGUMENT.fullmatch(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            yield f"* {names}: {found[2]}"
        else:
            yield f"  {line.strip()}"


def event_table() -> str:
    """All events: when each comes, and its fields beside those of every event."""
    lines = ["| event | fields besides `seq`, `at`, `worker` | when |", "|---|---|---|"]
    for name in events.__all__:
        cls = getattr(events, name)
        if cls in (events.Event, events.WorkerEvent):
            continue
        own = [field for field in cls.__struct_fields__ if field not in ("seq", "at", "worker")]
        shown = ", ".join(f"`{field}`" for field in own)
        properties = [member for member in own_members(name, cls) if member not in own]
        if properties:
            shown += "; properties " + ", ".join(f"`{member}`" for member in properties)
        lines.append(f"| `{name}` | {shown} | {cell(docstring(name, cls))} |")
    return "\n".join(lines)


def error_tree() -> str:
    """The classes of errors, each below its base, with the builtin class that it also is."""
    lines: list[str] = []

    def add(cls: type, depth: int) -> None:
        others = [base.__name__ for base in cls.__bases__ if not issubclass(base, errors.EverycoreError)]
        also = f"also {', '.join(others)}" if depth and others else ""
        lines.append(f"    {'  ' * depth}{cls.__name__:<{26 - 2 * depth}}{also}".rstrip())
        for below in error_classes():
            if cls in below.__bases__:
                add(below, depth + 1)

    add(errors.EverycoreError, 0)
    return "\n".join(lines)


def error_table() -> str:
    lines = ["| error | fields | meaning |", "|---|---|---|"]
    for cls in error_classes():
        made = vars(cls).get("__init__")
        names = [name for name in inspect.signature(made).parameters if name != "self"] if made else []
        shown = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| `{cls.__name__}` | {shown} | {cell(docstring(cls.__name__, cls))} |")
    return "\n".join(lines)


def error_classes() -> list[type]:
    """All classes, in source order."""
    return [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.EverycoreError)
    ]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def names(module: Any) -> Mapping[str, Callable[[], str]]:
    return {name: lambda name=name: entry(module, name) for name in module.__all__}  # type: ignore[misc]


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "api.md": names(everycore),
    "testing.md": names(testing),
    "events.md": {"events": event_table},
    "errors.md": {"tree": error_tree, "errors": error_table},
}


def main() -> int:
    stale = False
    for page, parts in PAGES.items():
        path = REFERENCE / page
        old = path.read_text(encoding="utf-8")
        new = filled(old, parts)
        stale |= old != new
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
    return int(stale and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
