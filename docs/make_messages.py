"""Draws the index of messages: every text in the code that an operator may read, and what to do about it.

The advice is in messages.toml, by the text; `…` is a part that varies. The drawing fails if a text of the
code has no line there, and if a line's text is no longer in the code.

python docs/make_messages.py [--check]    # rewrites the page; --check only says whether it is current
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from drawn import main

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "everycore"
PAGE = DOCS / "reference" / "messages.md"
ADVICE = DOCS / "messages.toml"

#: Sections of the page, and the calls that report their texts. `debug` is for developers.
LEVELS = ("info", "warning", "error", "exception", "critical")
ERRORS: Mapping[str, str] = {
    "CannotBootError": "start",
    "ControlError": "control",
    "ConfigurationError": "settings",
}
#: Where texts are made that other modules log.
MADE_APART = SOURCE / "primary" / "words.py"
_PLACE = re.compile(r"%(?:\.\d)?[a-z]")


@dataclass(frozen=True, order=True)
class Found:
    """A text, its section of the page, and where the reader sees it: a level, a kind, a setting."""

    section: str
    text: str
    label: str


def found_in(source: str) -> Iterator[Found]:
    """The texts of one module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            owner, _, name = function.rpartition(".")
            if owner in ("log", "logger") and name in LEVELS:
                yield from texts("log", node.args[0], "error" if name == "exception" else name)
            elif owner in ("log", "logger") and name == "log" and len(node.args) > 1:
                yield from texts("log", node.args[1], "warning")
            elif function in ERRORS and node.args:
                section = ERRORS[function]
                at = 0 if section == "start" else 1
                if len(node.args) > at:
                    label = whole(node.args[0]) if at else ""
                    yield from texts(section, node.args[at], label)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and node.value.elts:
            level, *rest = node.value.elts
            if isinstance(level, ast.Attribute) and level.attr.lower() in LEVELS and rest:
                yield from texts("log", rest[0], level.attr.lower())


def returned_in(source: str) -> Iterator[Found]:
    """The texts that the functions of a module return for others to log."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr | ast.Constant):
            yield from texts("log", node.value, "warning")


def texts(section: str, node: ast.expr, label: str) -> Iterator[Found]:
    """The text of an argument, or both texts of a choice. Empty if the text is made elsewhere."""
    if isinstance(node, ast.IfExp):
        yield from texts(section, node.body, label)
        yield from texts(section, node.orelse, label)
        return
    text = whole(node)
    if re.search(r"[a-z]{3}", text):
        yield Found(section, text, label)


def whole(node: ast.expr) -> str:
    """A text with `…` for each part that varies, on one line."""
    return " ".join(re.sub(r"…+", "…", pieces(node)).split())


def pieces(node: ast.expr) -> str:
    match node:
        case ast.Constant(str(value)):
            return _PLACE.sub("…", value)
        case ast.JoinedStr(values):
            return "".join(pieces(value) for value in values)
        case ast.BinOp(left, ast.Add(), right):
            return pieces(left) + pieces(right)
    return "…"


def every() -> list[Found]:
    found = {
        each for path in sorted(SOURCE.rglob("*.py")) for each in found_in(path.read_text(encoding="utf-8"))
    }
    found |= set(returned_in(MADE_APART.read_text(encoding="utf-8")))
    return sorted(found)


def unanswered(found: Iterable[Found], advice: Mapping[str, Mapping[str, str]]) -> list[Found]:
    """The texts without a line in the table."""
    return [each for each in found if answer(each, advice) is None]


def unused(found: Iterable[Found], advice: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Lines of the table whose text is no longer in the code."""
    seen = {(each.section, line(each, advice)) for each in found}
    return [f"{name}: {text}" for name, own in advice.items() for text in own if (name, text) not in seen]


def line(found: Found, advice: Mapping[str, Mapping[str, str]]) -> str | None:
    """The key of a text's line: the text, or the longest beginning of it that ends with `*`."""
    own = advice.get(found.section, {})
    if found.text in own:
        return found.text
    begins = [key for key in own if key.endswith("*") and found.text.startswith(key[:-1])]
    return max(begins, key=len, default=None)


def answer(found: Found, advice: Mapping[str, Mapping[str, str]]) -> str | None:
    key = line(found, advice)
    return None if key is None else advice[found.section][key]


def table(section: str, head: str) -> str:
    """One section of the page."""
    advice = read_advice()
    found = every()
    lacking = [f"{each.section}: {each.text!r}" for each in unanswered(found, advice)]
    if lacking or unused(found, advice):
        raise ValueError(
            "\n".join(["messages.toml differs from the code:", *lacking, *unused(found, advice)])
        )
    rows: dict[str, list[Found]] = {}
    for each in found:
        if each.section == section:
            rows.setdefault(each.text, []).append(each)
    lines = [f"| {head} | what to do |", "|---|---|"]
    for text in sorted(rows, key=lambda text: text.lstrip("…: (").casefold()):
        labels = " / ".join(dict.fromkeys(each.label for each in rows[text] if each.label))
        lines.append(f"| {shown(section, text, labels)} | {answer(rows[text][0], advice)} |")
    return "\n".join(lines)


def shown(section: str, text: str, labels: str) -> str:
    """A text as the operator sees it."""
    code = text.replace("|", "\\|").replace("`", "'")
    if section == "log":
        return f"`{code}` ({labels})"
    if section == "settings":
        named = [] if "…" in labels else labels.split(" / ")
        return f"`{named[0]}: {code}`" if len(named) == 1 else f"`…: {code}`"
    return f"`{code}` ({labels})" if labels else f"`{code}`"


def read_advice() -> dict[str, dict[str, str]]:
    return tomllib.loads(ADVICE.read_text(encoding="utf-8"))


DRAWN: Mapping[str, Callable[[], str]] = {
    "log": lambda: table("log", "line, and its level"),
    "start": lambda: table("start", "text"),
    "control": lambda: table("control", "text, and its kind in JSON"),
    "settings": lambda: table("settings", "text"),
}

if __name__ == "__main__":
    sys.exit(main(PAGE, DRAWN))
