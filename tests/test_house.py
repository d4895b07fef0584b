"""What holds for every file of the package: its size, and the logger that it writes to."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.folders import SOURCE

MOST_LINES = {"file": 400, "class": 250, "function": 60}


def sizes(path: Path, root: Path = SOURCE) -> Iterator[tuple[str, str, int]]:
    """Kind, name and lines of the file and of each class and function in it, with their decorators."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root).as_posix()
    yield "file", name, len(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, f"{name}:{node.name}", (node.end_lineno or first) - first + 1


def too_large(root: Path = SOURCE) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"file": set(), "class": set(), "function": set()}
    for path in sorted(root.rglob("*.py")):
        for kind, name, lines in sizes(path, root):
            if lines > MOST_LINES[kind]:
                found[kind].add(name)
    return found


def test_no_file_class_or_function_is_too_large():
    assert too_large() == {kind: set() for kind in MOST_LINES}


@pytest.mark.parametrize("kind", MOST_LINES)
def test_what_is_too_large_is_found(tmp_path, kind):
    head = {"file": "", "class": "class Large:\n", "function": "class Holder:\n    async def large():\n"}[
        kind
    ]
    body = {"file": "x = 1\n", "class": "    x = 1\n", "function": "        x = 1\n"}[kind]
    most = MOST_LINES[kind] - (kind != "file")
    path = tmp_path / "one.py"
    path.write_text(head + body * most)
    assert too_large(tmp_path)[kind] == set()
    path.write_text(head + body * (most + 1))
    name = {"file": "one.py", "class": "one.py:Large", "function": "one.py:large"}[kind]
    assert too_large(tmp_path)[kind] == {name}


def loggers(path: Path) -> Iterator[str]:
    """The names of the loggers that the file asks for, as far as they are everycore's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


def test_each_room_writes_to_a_logger_of_its_own():
    asked = 0
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        for name in loggers(path):
            assert name == f"everycore.{room}", path
            asked += 1
    assert asked


def class_names(root: Path = SOURCE) -> dict[str, list[str]]:
    """Where each class that is not private to its file is defined."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.relative_to(root).as_posix())
    return found


#: Each module about another library, and each command, has one of these: one meaning, several classes.
SEVERAL = {"Capabilities", "Options"}


def test_a_class_name_has_one_meaning():
    names = class_names()
    assert {name: names[name] for name in names.keys() - SEVERAL if len(names[name]) > 1} == {}


GLOSSARY = Path(__file__).parents[1] / "docs" / "reference" / "README.md"


def glossary() -> list[str]:
    """The words that the glossary explains."""
    table = GLOSSARY.read_text(encoding="utf-8").partition("## Glossary")[2].partition("\n## ")[0]
    return [re.sub(r" \(.*?\)", "", word) for word in re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[1:]]


def test_the_glossary_explains_words_that_the_code_uses():
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")).lower()
    assert len(glossary()) > 30
    assert [word for word in glossary() if not re.search(rf"\b{re.escape(word)}", code)] == []
    assert len(set(glossary())) == len(glossary())
