"""Private names of other libraries occur in `everycore.foreign` alone: the source is read to check it."""

import ast
from collections.abc import Iterator

from tests.kit.folders import SOURCE
from tests.kit.imports import read_modules

#: Documented or commonly used in spite of the underscore: sys._getframe and the like would be here.
PUBLIC = frozenset({"_replace", "_asdict", "_fields", "_exit"})


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def own_names(trees: dict[str, tuple[ast.Module, bool]]) -> set[str]:
    """Every private name that everycore defines: a function, a field, a slot, a module's name."""
    found: set[str] = set()
    for tree, _ in trees.values():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Assign(targets=[ast.Name(id="__slots__")], value=slots):
                    found.update(ast.literal_eval(slots))
    return found


def used_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Private attributes of anything, and private names imported from other packages, in order."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name):
                yield name, node.lineno
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("everycore"):
                yield from ((alias.name, node.lineno) for alias in names if is_private(alias.name))
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]
            ):
                if is_private(name):
                    yield name, node.lineno


def foreign_names(trees: dict[str, tuple[ast.Module, bool]]) -> list[str]:
    outside = {name: tree for name, tree in trees.items() if not name.startswith("everycore.foreign")}
    ours = own_names(outside) | PUBLIC
    return [
        f"{module}:{line} uses {name}"
        for module, (tree, _) in sorted(outside.items())
        for name, line in used_names(tree)
        if name not in ours
    ]


def test_no_room_but_foreign_uses_private_names_of_others():
    assert foreign_names(read_modules(SOURCE)) == []


def test_it_finds_them():
    source = "from asyncio.events import _get_running_loop\nloop._selector.close()\ngetattr(loop, '_ready')\n"
    trees = {"everycore.somewhere": (ast.parse(source), False)}
    assert sorted(foreign_names(trees)) == [
        "everycore.somewhere:1 uses _get_running_loop",
        "everycore.somewhere:2 uses _selector",
        "everycore.somewhere:3 uses _ready",
    ]
