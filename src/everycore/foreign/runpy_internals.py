"""The private part of `runpy` that everycore uses.

`python -m` and `python FOLDER` call `runpy._run_module_as_main`, which runs the module in the interpreter's
own `__main__`. The public way, `runpy.run_module`, runs it in a temporary module. The program works, but
`sys.modules["__main__"]` is another module while it runs, and that module is gone when the program has ended.
"""

from __future__ import annotations

import inspect
import runpy
from types import CodeType
from typing import Any, Final

from everycore.foreign import is_allowed


def _probe() -> Any:
    function = getattr(runpy, "_run_module_as_main", None)
    if function is None or not is_allowed("runpy.main"):
        return None
    try:
        inspect.signature(function).bind("module", True)
    except TypeError:
        return None
    return function


_as_main: Final = _probe()

#: The code object of the outermost frame that a traceback of such a program shows, as with `python -m`.
CODE: Final[CodeType] = (_as_main or runpy.run_module).__code__


def run_module_as_main(name: str, *, alter_argv: bool) -> None:
    """Run the module `name` as `python -m` does (alter_argv), or as `python FOLDER` does."""
    if _as_main is not None:
        _as_main(name, alter_argv)
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
