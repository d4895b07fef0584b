"""Where tests are: their folders mirror those of the sources, and helpers are in the kit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.folders import ROOT, SOURCE

TESTS = ROOT / "tests"

#: Folders about the whole, with real programs: named after what a user does, not after a module.
WHOLE = {"cli", "conformance", "integration", "matrix", "neighbours"}
#: Packages without a folder of their own, and where they are tested.
TESTED_BY = {"launch": "cli", "mold": "integration"}
#: Helpers outside the kit: a page of the documentation is drawn from them.
BESIDE_TESTS = {"conformance/catalogue.py", "conformance/node.py", "matrix/results.py", "matrix/table.py"}
#: Programs that tests start, in a separate environment.
STARTED = "matrix/programs"
#: The one file that repeats the tests of others, in other surroundings.
REPEATS_TESTS = {"integration/test_primary_on_uvloop.py"}
MOST_LINES = 500


def modules_of(package: Path) -> set[str]:
    """The names of its modules and packages, and its own, for tests of its `__init__.py`."""
    inside = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    return (inside - {"__init__", "__main__", "__pycache__"}) | {package.name}


def misplaced(tests: Path, source: Path) -> Iterator[str]:
    for path in sorted(tests.rglob("*.py")):
        name = path.relative_to(tests).as_posix()
        folder, _, file = name.rpartition("/")
        if folder in {"kit", STARTED} or file in {"__init__.py", "conftest.py"} or name in BESIDE_TESTS:
            continue
        package = source / folder
        if not file.startswith("test_"):
            yield f"{name}: a helper belongs to tests/kit"
        elif folder and folder not in WHOLE and not (package / "__init__.py").is_file():
            yield f"{name}: there is no package {folder}"
        elif folder and folder not in WHOLE:
            subject = path.stem.removeprefix("test_") + "_"
            if not any(subject.startswith(f"{module}_") for module in modules_of(package)):
                yield f"{name}: {folder} has no module of that name"


def untested(tests: Path, source: Path) -> list[str]:
    """Packages that have neither a folder of tests nor a place in `TESTED_BY`."""
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    return sorted(package for package in packages - set(TESTED_BY) if not (tests / package).is_dir())


def is_of_tests(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] == "tests"


def foreign_imports(tests: Path) -> Iterator[str]:
    """Imports from tests and conftests, which are forbidden."""
    for path in sorted(tests.rglob("*.py")):
        name = path.relative_to(tests).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in filter(is_of_tests, modules):
                wanted = f"{module}.".removeprefix("tests.")
                is_beside = f"{wanted.rstrip('.').replace('.', '/')}.py" in BESIDE_TESTS
                if not wanted.startswith("kit.") and not is_beside and name not in REPEATS_TESTS:
                    yield f"{name}: imports from {module}"


def too_long(tests: Path) -> list[str]:
    files = sorted(tests.rglob("*.py"))
    return [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES]


def test_each_is_where_its_module_is():
    assert list(misplaced(TESTS, SOURCE)) == []


def test_each_package_has_tests():
    assert untested(TESTS, SOURCE) == []
    assert all((SOURCE / package).is_dir() and (TESTS / by).is_dir() for package, by in TESTED_BY.items())


def test_helpers_come_from_the_kit():
    assert list(foreign_imports(TESTS)) == []
    assert all((TESTS / name).is_file() for name in BESIDE_TESTS | REPEATS_TESTS)


def test_no_file_is_too_long():
    assert too_long(TESTS) == []


# The checks themselves: each must be able to fail


@pytest.fixture
def tree(tmp_path):
    """Write empty files. Returns their folder: `tree("tests", "core/test_wire.py")`."""

    def write(root: str, *names: str, text: str = "") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / root

    return write


@pytest.fixture
def source(tree):
    return tree("src", "__init__.py", "pool.py", "core/__init__.py", "core/wire.py", "core/deep/__init__.py")


@pytest.mark.parametrize(
    "name",
    [
        "test_pool.py",
        "core/test_core.py",
        "core/test_wire.py",
        "core/test_wire_limits.py",
        "core/test_deep.py",
        "core/deep/test_deep.py",
        "core/conftest.py",
        "kit/clients.py",
        "integration/test_anything.py",
        "conformance/node.py",
    ],
)
def test_what_lies_well_is_let_be(tree, source, name):
    assert list(misplaced(tree("tests", name), source)) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("core/test_wires.py", "no module of that name"),
        ("core/test_pool.py", "no module of that name"),
        ("core/deep/test_wire.py", "no module of that name"),
        ("runtime/test_wire.py", "no package runtime"),
        ("core/clients.py", "belongs to tests/kit"),
        ("integration/clients.py", "belongs to tests/kit"),
        ("clients.py", "belongs to tests/kit"),
    ],
)
def test_what_lies_elsewhere_is_found(tree, source, name, reason):
    (found,) = misplaced(tree("tests", name), source)
    assert found.startswith(f"{name}: ")
    assert reason in found


def test_a_package_without_tests_is_found(tree, source):
    assert untested(tree("tests", "aio/test_aio.py"), source) == ["core"]
    assert untested(tree("tests", "core/test_wire.py"), source) == []


@pytest.mark.parametrize(
    ("module", "is_well"),
    [
        ("tests.kit", True),
        ("tests.kit.traffic", True),
        ("tests.conformance.node", True),
        ("everycore.core", True),
        ("tests.core.conftest", False),
        ("tests.core.test_wire", False),
        ("tests.core", False),
        ("tests", False),
    ],
)
def test_an_import_from_a_test_is_found(tree, module, is_well):
    tests = tree("tests", "core/test_wire.py", text=f"from {module} import anything\n")
    assert list(foreign_imports(tests)) == ([] if is_well else [f"core/test_wire.py: imports from {module}"])


def test_an_import_of_a_test_is_found_however_it_is_written(tree):
    tests = tree("tests", "core/test_wire.py", text="def f():\n    import tests.core.test_frames\n")
    assert list(foreign_imports(tests)) == ["core/test_wire.py: imports from tests.core.test_frames"]


def test_a_long_file_is_found(tree):
    assert too_long(tree("tests", "test_short.py", text="x = 1\n" * MOST_LINES)) == []
    tests = tree("tests", "test_long.py", text="x = 1\n" * (MOST_LINES + 1))
    assert too_long(tests) == [str(tests / "test_long.py")]
