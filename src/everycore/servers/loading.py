"""Finds the application that MODULE:ATTRIBUTE names, or makes it, as MODULE:ATTRIBUTE(ARGUMENTS) says.

It imports the module, looks up the attribute, and calls the factory. A mistake of the user's typing becomes
one sentence; an error inside the application is shown with its traceback. Invariant: a traceback shows the
user's frames, never everycore's. The module works even if uvicorn is not installed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from everycore.ops.job import STATUS_NO_BOOT, BootReport, parse_app
from everycore.ops.tracebacks import traceback_text


class CannotBootError(Exception):
    """The application can't be served. `report` tells the user why."""

    def __init__(self, text: str, status: int = STATUS_NO_BOOT) -> None:
        super().__init__(text)
        self.report = BootReport(text, status)


def load_app(name: str, app_dir: str, *, factory: bool) -> Callable[..., Any]:
    """The application. `app_dir` comes first on `sys.path` from now on. Raises CannotBootError."""
    folder = str(Path(app_dir).resolve())
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    named = parse_app(name)
    assert named is not None, name  # the primary has checked it
    app = _look_up(_import(named.module, folder), named.attribute)
    if factory or named.arguments is not None:
        app = _call_factory(app, f"{named.module}:{named.attribute}", named.arguments or ([], {}))
    if not callable(app):
        raise CannotBootError(f"{name} is not callable: its type is {type(app).__name__}")
    return app  # type: ignore[no-any-return]


def load_env_file(path: str | None) -> None:
    """Set the variables of the file at `path` that are not set already. Raises CannotBootError."""
    if path is None:
        return
    try:
        from dotenv import load_dotenv
    except ImportError:
        raise CannotBootError("--env-file needs python-dotenv: pip install 'everycore[standard]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            load_dotenv(stream=file)
    except (OSError, ValueError) as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        why = getattr(error, "strerror", None) or (str(error) if is_text else "it is not UTF-8")
        raise CannotBootError(f"cannot read the --env-file {path}: {why.lower()}") from None


def user_traceback(error: BaseException) -> str:
    """The traceback as the application's author wants to see it, from the first frame of the application."""
    return traceback_text(error, _first_frame_of_user(error.__traceback__))


def words(error: BaseException) -> str:
    """An engine's error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _import(name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if _first_frame_of_user(error.__traceback__) is None:
            raise CannotBootError(f"there is no module {error.name!r} in {folder} or on sys.path") from None
        raise CannotBootError(user_traceback(error)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a module is a failure to load like any other
        raise CannotBootError(user_traceback(error)) from None


def _look_up(module: ModuleType, attribute: str) -> Any:
    found: Any = module
    path = module.__name__
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CannotBootError(f"{path} has no attribute {part!r}{_suggestion(found, part)}") from None
        path = f"{path}.{part}"
    return found


def _suggestion(owner: object, name: str) -> str:
    names = [known for known in dir(owner) if not known.startswith("_")]
    import difflib  # late: only for what is wrong

    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _call_factory(factory: Any, name: str, arguments: tuple[list[Any], dict[str, Any]]) -> Any:
    if not callable(factory):
        raise CannotBootError(f"{name} is not a factory: its type is {type(factory).__name__}")
    if inspect.iscoroutinefunction(factory):
        raise CannotBootError(
            f"{name} is not a factory: a factory is a plain function, not a coroutine function"
        )
    positional, named = arguments
    try:
        return factory(*positional, **named)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CannotBootError(user_traceback(error)) from None


def _first_frame_of_user(trace: TracebackType | None) -> TracebackType | None:
    """Skip the frames of this package and of the import system, which come before the application's."""
    while trace is not None and _is_plumbing(trace.tb_frame.f_globals.get("__name__")):
        trace = trace.tb_next
    return trace


def _is_plumbing(module: object) -> bool:
    package, _, _ = str(module).partition(".")
    return package in ("everycore", "importlib", "_frozen_importlib", "_frozen_importlib_external")
