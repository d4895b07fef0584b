"""What may follow on the command line: the candidates for completion by a shell.

The values of a setting come from its schema, modules and their names from the source. Invariant: completion
imports and runs nothing of the user's, and leaves out what it cannot read.
"""

from __future__ import annotations

import ast
import os
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from everycore.config.kinds import Path, Schema, Several
from everycore.config.setting import Field
from everycore.system.plain_files import open_plain

Item = CompletionItem[str]

#: A file or a folder, which the shell itself completes; and a word that goes on without a space.
FILE: Final = "file"
FOLDER: Final = "dir"
OPEN: Final = "open"

#: An imported name is a candidate for APP if it is one of these.
_USUAL: Final = frozenset(
    {"app", "application", "api", "asgi", "wsgi", "create_app", "make_app", "get_app", "main"}
)
_MOST_BYTES: Final = 1 << 20
#: The options of uvicorn that name a file, although their kind is text.
_FILES_OF_THE_ENGINE: Final = frozenset({"ssl_keyfile", "ssl_certfile", "ssl_ca_certs"})
_FOLDERS: Final = ("app_dir", "pythonpath")
_BASES: Final = ("chdir", "working_dir", "cwd")


def of_value(field: Field, incomplete: str) -> list[Item]:
    """The values that may follow an option."""
    kind = field.setting.kind
    if isinstance(kind, Path) or field.name in _FILES_OF_THE_ENGINE:
        return [Item("", type=FOLDER if kind.metavar == "FOLDER" else FILE)]
    if isinstance(kind, Several) and kind.metavar in ("FILE", "FOLDER"):
        return [Item("", type=FOLDER if kind.metavar == "FOLDER" else FILE)]
    return [Item(word) for word in _words(kind.schema()) if word.startswith(incomplete)]


def _words(schema: Schema) -> list[str]:
    if "enum" in schema:
        return [str(word) for word in schema["enum"]]
    if "const" in schema:
        return [str(schema["const"])]
    if schema.get("type") == "boolean":
        return ["true", "false"]
    return [word for one in schema.get("anyOf", ()) for word in _words(one)]


def applications(context: click.Context, _: click.Parameter, incomplete: str) -> list[Item]:
    """The candidates for APP of `everycore serve`: modules, each with a colon, then what a module defines."""
    folder = _folder(context.params)
    module, colon, begun = incomplete.partition(":")
    if not colon:
        return [
            Item(f"{name}{mark}", type=OPEN)
            for name, is_package in _modules(folder, incomplete)
            for mark in ((".", ":") if is_package else (":",))
            if mark == "." or not is_package or _names(folder, name, made_by_call=False)
        ]
    names = _names(folder, module, made_by_call=bool(context.params.get("factory")))
    return [Item(f"{module}:{name}") for name in names if name.startswith(begun)]


def files(_context: click.Context, _: click.Parameter, _incomplete: str) -> list[Item]:
    """The shell's own candidates: any file."""
    return [Item("", type=FILE)]


def commands(_context: click.Context, _: click.Parameter, incomplete: str) -> list[Item]:
    """The commands that `everycore config` can show the settings of."""
    return [Item(word) for word in ("serve", "run") if word.startswith(incomplete)]


def running(_context: click.Context, _: click.Parameter, incomplete: str) -> list[Item]:
    """The names of the services that are running."""
    from everycore.control import services  # late: only this completion needs it

    names = dict.fromkeys(service.name for service in services(timeout=0.5))
    return [Item(name) for name in names if name.startswith(incomplete)]


def programs(context: click.Context, _: click.Parameter, incomplete: str) -> list[Item]:
    """The candidates for SCRIPT of `everycore run`, or for the module after -m.

    The words after that belong to the program.
    """
    if not context.params.get("is_module") or context.params.get("program"):
        return [Item("", type=FILE)]
    found = list(_modules(_base(context.params), incomplete))
    if incomplete and "." not in incomplete:
        known = {name for name, _ in found}
        found += [
            (module.name, module.ispkg)
            for module in pkgutil.iter_modules()
            if module.name.startswith(incomplete) and module.name not in known
        ]
    return [Item(name) for name, _ in found] + [Item(f"{name}.", type=OPEN) for name, pkg in found if pkg]


def _base(params: Mapping[str, Any]) -> str:
    return next((params[name] for name in _BASES if params.get(name)), "")


def _folder(params: Mapping[str, Any]) -> str:
    folder = next((params[name] for name in _FOLDERS if params.get(name)), "")
    return os.path.join(_base(params), folder)


def _modules(folder: str, begun: str) -> Iterator[tuple[str, bool]]:
    """The modules whose dotted names begin with `begun`, and whether each is a package."""
    parent, _, stem = begun.rpartition(".")
    prefix = f"{parent}." if parent else ""
    try:
        entries = sorted(os.scandir(os.path.join(folder or ".", *parent.split("."))), key=lambda it: it.name)
    except (OSError, ValueError):
        return
    for entry in entries:
        name = entry.name.removesuffix(".py")
        if not name.isidentifier() or not name.startswith(stem) or name.startswith("__"):
            continue
        if name != entry.name:
            yield prefix + name, False
        elif _holds_modules(entry.path):
            yield prefix + name, True


def _holds_modules(path: str) -> bool:
    try:
        return any(name.endswith(".py") for name in os.listdir(path))
    except OSError:  # not a folder, or not readable
        return False


def _names(folder: str, module: str, *, made_by_call: bool) -> list[str]:
    """The names in a module that may be an application, or, if `made_by_call`, a factory of one."""
    path = os.path.join(folder, *module.split("."))
    for candidate in (f"{path}.py", os.path.join(path, "__init__.py")):
        try:
            with open_plain(candidate) as file:
                tree = ast.parse(file.read(_MOST_BYTES))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        names = (name for node in tree.body for name in _defined(node, made_by_call=made_by_call))
        return list(dict.fromkeys(name for name in names if not name.startswith("_")))
    return []


def _defined(node: ast.stmt, *, made_by_call: bool) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.ImportFrom(names=names):
            imported = [alias.asname or alias.name for alias in names]
            return [name for name in imported if name in _USUAL]
        case ast.Assign(targets=targets) if not made_by_call:
            return [
                target.id for target in targets if isinstance(target, ast.Name) and not target.id.isupper()
            ]
        case ast.AnnAssign(target=ast.Name(id=name)) if not made_by_call:
            return [name]
    return []
