"""`@node`: which of Node's tests a test stands for.

@node("test-cluster-worker-exit")                      # asserts what Node's asserts
@node("test-cluster-fork-stdio", adapted="why, and what instead")
@node("test-child-process-net-reuseport", "test-child-process-dgram-reuseport")    # the same behaviour

The first name is also the function's own. `docs/make_parity.py` reads these lines without running them, for
the table in docs/reference/node-parity.md, so they must be literals.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def node(*names: str, adapted: str | None = None) -> pytest.MarkDecorator:
    """The mark. `adapted`: what differs from Node's test, and why."""
    return pytest.mark.node(*names, adapted=adapted)


@dataclass(frozen=True)
class Translation:
    """A translated test, as its source shows it."""

    file: str
    function: str
    names: tuple[str, ...]
    adapted: str | None


def translations() -> Iterator[Translation]:
    """Every `@node` of this folder."""
    for path in sorted(HERE.glob("test_*.py")):
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in found.decorator_list:
                    if (
                        isinstance(mark, ast.Call)
                        and isinstance(mark.func, ast.Name)
                        and mark.func.id == "node"
                    ):
                        yield _read(path.name, found.name, mark)


def _read(file: str, function: str, mark: ast.Call) -> Translation:
    named = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
    names = tuple(ast.literal_eval(name) for name in mark.args)
    return Translation(file, function, names, named.get("adapted"))
