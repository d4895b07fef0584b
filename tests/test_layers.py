"""Checks the layers of the package by reading its source: which room may import which, and no circles.

The picture is in docs/explanation; the table below is what counts.
"""

import ast
import sys
from pathlib import Path

import pytest

from tests.kit.folders import SOURCE
from tests.kit.imports import Import, read_imports, read_modules

PACKAGE = "everycore"

# From the bottom up. A module imports from its own room and from the rows below; from the other rooms of its
# own row only where `OPEN_ROWS` says so.
ROWS: list[set[str]] = [
    {"errors", "foreign", "forks", "held_signals", "kernel", "model", "settings", "role", "ticket"}
    | {"config"},
    {"core", "system"},
    {"aio"},
    {"events", "worker_face"},  # `event.worker` is a `Worker`: both sides tell events, so it lies below them
    {"primary", "worker"},
    {"control", "current", "entry", "listening", "pool"},
    {"ops"},
    {"cli", "servers", "launch", "mold", "observer"},
    {"testing"},  # for users' tests: it plays the workers of a primary, and nothing imports it
]
OPEN_ROWS = {0, 3, 5, 7}
ROW = {room: number for number, row in enumerate(ROWS) for room in row}

# `everycore/__init__.py` gathers the public names, `__main__.py` starts the command line.
FREE = {"__init__", "__main__"}

# Core decides; it gets input and the time as arguments, and returns its output.
NOT_IN_CORE = frozenset(
    {"asyncio", "concurrent", "multiprocessing", "queue", "sched", "threading", "_thread", "uvloop"}
    | {"fcntl", "mmap", "os", "pathlib", "shutil", "tempfile", "ctypes", "resource", "signal", "subprocess"}
    | {"http", "select", "selectors", "socket", "socketserver", "ssl", "urllib"}
    | {"datetime", "logging", "random", "secrets", "time", "uuid"}
)
ASYNCIO = {"asyncio", "uvloop"}
ASYNCIO_ROOMS = {
    "foreign",
    "aio",
    "worker_face",
    "primary",
    "worker",
    "entry",
    "pool",
    "ops",
    "servers",
    "observer",
    "testing",
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_ours(module: str, package: str = PACKAGE) -> bool:
    return module.split(".", maxsplit=1)[0] == package


def rooms_without_layer(root: Path) -> list[str]:
    rooms = {room_of(module) for module in read_modules(root)}
    return [f"{root.name}.{room}: give it a layer" for room in sorted(rooms - set(ROW) - FREE)]


def broken_layers(imports: list[Import]) -> list[str]:
    return [f"{found}: {wrong}" for found in imports if (wrong := broken_layer(found))]


def broken_layer(found: Import) -> str | None:
    importer, imported = room_of(found.importer), room_of(found.imported)
    if importer in FREE or importer not in ROW or not is_ours(found.imported):
        return None
    if imported in FREE:
        return "nothing in the package imports the public face; import the module that has the name"
    if imported not in ROW or imported == importer:
        return None
    if ROW[imported] > ROW[importer]:
        return f"{imported} lies above {importer}"
    if ROW[imported] == ROW[importer] and ROW[importer] not in OPEN_ROWS:
        return f"{imported} and {importer} lie side by side and know nothing of each other"
    return None


def forbidden_modules(imports: list[Import]) -> list[str]:
    wrong = []
    for found in imports:
        room, top = room_of(found.importer), found.imported.split(".")[0]
        if room == "core" and top in NOT_IN_CORE:
            wrong.append(f"{found}: core is pure")
        elif top in ASYNCIO and room not in ASYNCIO_ROOMS | FREE:
            wrong.append(f"{found}: asyncio belongs to {', '.join(sorted(ASYNCIO_ROOMS))}")
    return wrong


def circle(imports: list[Import]) -> list[str]:
    """The modules of one circle, first and last the same; empty without one.

    An import for type checkers alone closes a circle like any other.
    """
    graph: dict[str, set[str]] = {}
    for found in imports:
        if is_ours(found.imported):
            graph.setdefault(found.importer, set()).add(found.imported)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for imported in sorted(graph.get(module, ())):
                if ring := visit(imported, [*path, module]):
                    return ring
            done.add(module)
        return []

    return next((ring for module in sorted(graph) if (ring := visit(module, []))), [])


def rooms_within(imports: list[Import], room: str) -> dict[str, set[str]]:
    """The rooms inside a room, and which of the others each imports, for types too."""
    rooms: dict[str, set[str]] = {}
    for found in imports:
        importer, imported = found.importer.split(".")[1:3], found.imported.split(".")[1:3]
        if len(importer) == 2 and importer[0] == room:
            others = rooms.setdefault(importer[1], set())
            if len(imported) == 2 and imported[0] == room and imported != importer:
                others.add(imported[1])
    return rooms


def floors(rooms: dict[str, set[str]]) -> list[set[str]]:
    """The rooms from the bottom up, each above all that it imports; rooms of a circle are on no floor."""
    found: list[set[str]] = []
    done: set[str] = set()
    while floor := {room for room, imported in rooms.items() if room not in done and imported <= done}:
        found.append(floor)
        done |= floor
    return found


def shadowed_modules(root: Path) -> list[str]:
    """Public names that are also submodules: `everycore.name` would be either of them by chance."""
    modules = read_modules(root)
    public: set[object] = set()
    for node in modules[root.name][0].body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and ast.unparse(node).startswith(
            "__all__"
        ):
            public |= {word.value for word in ast.walk(node) if isinstance(word, ast.Constant)}
    return sorted({room_of(module) for module in modules} & public)


# The package


@pytest.fixture(scope="module")
def package_imports() -> list[Import]:
    found = read_imports(SOURCE)
    assert found, f"no source under {SOURCE}"
    return found


def test_every_module_has_a_layer():
    assert rooms_without_layer(SOURCE) == []


def test_imports_go_down(package_imports):
    assert broken_layers(package_imports) == []


def test_core_is_pure_and_asyncio_stays_in_its_rooms(package_imports):
    assert forbidden_modules(package_imports) == []


def test_no_circles(package_imports):
    assert circle(package_imports) == []


def test_a_worker_has_few_rooms_one_above_the_other(package_imports):
    rooms = rooms_within(package_imports, "worker")
    assert len(rooms) <= 10
    assert set().union(*floors(rooms)) == set(rooms)
    assert [room for room, imported in rooms.items() if "context" in imported] == []  # the public face


def test_no_public_name_is_a_submodule():
    assert shadowed_modules(SOURCE) == []


def test_forbidden_modules_exist():
    # A misspelt name would forbid nothing.
    assert NOT_IN_CORE - {"uvloop"} <= set(sys.stdlib_module_names)


# The checks themselves: each must be able to fail


@pytest.fixture
def tree(tmp_path):
    """Write a package from {"core/wire.py": source}. Returns its folder."""

    def write(files: dict[str, str]) -> Path:
        root = tmp_path / PACKAGE
        for name, source in {"__init__.py": "", **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return root

    return write


GUARDED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"


@pytest.mark.parametrize(
    ("importer", "statement", "reason"),
    [
        ("core/wire.py", "from everycore.aio import channel", "aio lies above core"),
        ("core/wire.py", "from everycore.system.belt import Belt", "side by side"),
        ("system/belt.py", "import everycore.core.wire", "side by side"),
        ("primary/driver.py", "from ..worker.context import WorkerContext", "side by side"),
        ("worker/context.py", "def f():\n    from everycore.primary import driver", "side by side"),
        ("entry.py", "try:\n    import everycore.ops.control\nexcept ImportError:\n    pass", "lies above"),
        ("ops/control.py", "from everycore.cli.main import main", "lies above"),
        ("model.py", "from .core import wire", "lies above"),
        ("pool.py", "from everycore import run", "public face"),
        ("aio/channel.py", "import everycore", "public face"),
        ("cli/main.py", "from everycore import __main__", "public face"),
        ("model.py", GUARDED.format("from everycore.primary.worker import Worker"), "lies above"),
        ("events.py", GUARDED.format("from everycore.primary.cluster import Cluster"), "lies above"),
    ],
)  # fmt: skip
def test_finds_an_import_against_the_layers(tree, importer, statement, reason):
    rooms = {
        f"{room}/__init__.py": "" for room in ("core", "system", "aio", "primary", "worker", "ops", "cli")
    }
    root = tree(
        {"__main__.py": "", "core/wire.py": "", "primary/worker.py": "", "primary/driver.py": ""}
        | rooms
        | {importer: statement}
    )

    wrong = broken_layers(read_imports(root))

    assert len(wrong) == 1
    assert reason in wrong[0]


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("core/wire.py", "from everycore import errors"),
        ("core/wire.py", "from everycore.core.frames import Frame"),
        ("cli/main.py", "from everycore.servers.engines import Engine"),
        ("pool.py", "from everycore.entry import run"),
        ("primary/driver.py", "import socket, asyncio\nfrom everycore.aio.channel import Channel"),
        ("events.py", "from everycore.worker_face import Worker"),
        ("events.py", GUARDED.format("from everycore.system.descriptors import Descriptor")),
        ("__init__.py", "from everycore.cli.main import main"),
        ("__main__.py", "from everycore import run"),
    ],
)  # fmt: skip
def test_lets_other_imports_be(tree, importer, statement):
    root = tree({"errors.py": "", "primary/worker.py": "", "worker/context.py": "", importer: statement})

    assert broken_layers(read_imports(root)) == []
    assert forbidden_modules(read_imports(root)) == []


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("core/wire.py", "import os.path"),
        ("core/wire.py", "from time import monotonic"),
        ("core/policies.py", "def f():\n    import random"),
        ("core/wire.py", GUARDED.format("import socket")),
        ("cli/main.py", "import asyncio"),
        ("listening.py", "from asyncio import Server"),
        ("system/wakeups.py", "import uvloop"),
    ],
)
def test_finds_a_forbidden_module(tree, importer, statement):
    assert len(forbidden_modules(read_imports(tree({importer: statement})))) == 1


def test_finds_a_circle_also_through_functions_and_packages(tree):
    root = tree(
        {
            "aio/__init__.py": "from .channel import Channel",
            "aio/channel.py": "def f():\n    from everycore.aio import frames",
            "aio/frames.py": "import everycore.aio",
        }
    )

    assert circle(read_imports(root)) == [
        "everycore.aio", "everycore.aio.channel", "everycore.aio.frames", "everycore.aio",
    ]  # fmt: skip


def test_rooms_of_a_circle_are_on_no_floor(tree):
    root = tree(
        {
            "worker/link.py": "import socket",
            "worker/loops/asyncio_loop.py": "from everycore.worker.connections.shared_reader import Turn",
            "worker/connections/shared_reader.py": GUARDED.format(
                "from everycore.worker.loops.clustered import Loop"
            ),
            "worker/boot.py": "from everycore.worker.link import Link",
        }
    )

    rooms = rooms_within(read_imports(root), "worker")
    assert set(rooms) == {"link", "loops", "connections", "boot"}
    assert floors(rooms) == [{"link"}, {"boot"}]


def test_a_type_only_import_closes_a_circle(tree):
    root = tree(
        {
            "primary/worker.py": "import everycore.primary.driver",
            "primary/driver.py": GUARDED.format("import everycore.primary.worker"),
        }
    )

    assert circle(read_imports(root)) == [
        "everycore.primary.driver", "everycore.primary.worker", "everycore.primary.driver",
    ]  # fmt: skip


def test_the_other_branch_of_type_checking_is_run_time(tree):
    source = "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import everycore.model\n"
    root = tree({"model.py": "import everycore.events", "events.py": source})

    assert circle(read_imports(root)) != []


def test_finds_a_public_name_that_is_a_submodule(tree):
    root = tree(
        {"__init__.py": '__all__ = ["run", "pool"]\n__all__ += ["aio"]', "pool.py": "", "aio/__init__.py": ""}
    )

    assert shadowed_modules(root) == ["aio", "pool"]


def test_finds_a_module_without_a_layer(tree):
    root = tree({"misc.py": "", "extra/deep.py": "", "core/wire.py": ""})

    assert rooms_without_layer(root) == [
        "everycore.extra: give it a layer", "everycore.misc: give it a layer",
    ]  # fmt: skip
