"""What a reload does about changed files."""

import importlib
import os
import sys

import pytest

from everycore.ops.development import forget_bytecode


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """The value in a module that each call imports again, as a new worker does. It is saved in one second."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    path = tmp_path / "saved_twice.py"

    def save_and_import(value):
        path.write_text(f"VALUE = {value}\n")
        os.utime(path, (1e9, 1e9))
        return path, lambda: _import_anew("saved_twice")

    yield save_and_import
    sys.modules.pop("saved_twice", None)


def _import_anew(name):
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name).VALUE


def test_what_is_saved_twice_within_a_second_is_executed_as_it_is_now(imported):
    _, value = imported(1)
    assert value() == 1
    path, value = imported(2)
    assert value() == 1, "Python takes the bytecode for current"

    forget_bytecode([str(path)])

    assert value() == 2


def test_files_without_bytecode_are_passed_over(tmp_path):
    (tmp_path / "page.html").write_text("x")
    forget_bytecode([str(tmp_path / name) for name in ("page.html", "gone.py", "no/folder.py")])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
