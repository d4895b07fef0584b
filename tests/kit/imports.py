"""What the modules of a package import, read from their source without running it."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    type_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@functools.cache
def read_modules(root: Path) -> dict[str, tuple[ast.Module, bool]]:
    """Module name -> (its tree, whether it is a package)."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package
    return found


def read_imports(root: Path) -> list[Import]:
    modules = read_modules(root)
    found: list[Import] = []
    for name, (tree, is_package) in modules.items():
        for node, type_only in import_nodes(tree):
            targets = targets_of(node, name, is_package, set(modules))
            found += [Import(name, target, node.lineno, type_only) for target in targets]
    return found


def import_nodes(
    tree: ast.AST, type_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All imports, those inside functions too, and whether only type checkers see them."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, type_only
        elif isinstance(child, ast.If) and ast.unparse(child.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            for statement in child.body:
                yield from import_nodes(ast.Module([statement], []), type_only=True)
            for statement in child.orelse:
                yield from import_nodes(ast.Module([statement], []), type_only)
        else:
            yield from import_nodes(child, type_only)


def targets_of(
    node: ast.Import | ast.ImportFrom, name: str, is_package: bool, modules: set[str]
) -> list[str]:
    """The modules one statement asks for; `from package import x` is package.x where that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = name.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parts, node.module] if node.module else parts)
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
