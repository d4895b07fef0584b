"""Calls a function with a module when, and if, the program imports it.

Invariant: a program that does not import the module pays nothing, and one that does sees nothing: finder,
loader and `__spec__` are the module's own.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], object]


def after_import(name: str, callback: Callback) -> None:
    """Call `callback` with the module `name` once it is imported, or at once if it has been."""
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
    else:
        sys.meta_path.insert(0, _Watcher(name, callback))


class _Watcher(MetaPathFinder):
    """Finds one module, once, by means of the other finders."""

    def __init__(self, name: str, callback: Callback) -> None:
        self._name = name
        self._callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `MetaPathFinder.find_spec`."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)  # not found, but another import may find it
            return None
        _call_after(spec.loader, self._callback)
        return spec


def _call_after(loader: Loader, callback: Callback) -> None:
    """Make this loader, which serves this one import only, call back."""
    exec_module = loader.exec_module

    def exec_and_tell(module: ModuleType) -> Any:
        del loader.exec_module
        exec_module(module)
        callback(module)

    loader.exec_module = exec_and_tell  # type: ignore[method-assign]
