"""The tables of the reference beside the code: each call as it is made, and what it raises."""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import everycore
from everycore import errors
from everycore.settings import SettingsFields
from tests.kit.folders import ROOT

PAGE = ROOT / "docs/reference/api.md"
CLASSES = ["Cluster", "Pool", "Worker", "WorkerContext", "Descriptor"]
ERRORS = {name for name, cls in vars(errors).items() if isinstance(cls, type)} | {
    "TypeError", "ValueError", "OverflowError", "OSError", "RuntimeError", "TimeoutError",
}  # fmt: skip


def section(name: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### `{name}`$(.*?)(?=^###? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def calls(name: str) -> Iterator[tuple[str, ast.arguments, bool, str]]:
    """Each call in the table of a class: the member, its arguments, whether it is awaited, and the row."""
    for row in re.findall(r"^\| .* \|$", section(name), re.MULTILINE):
        for text in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            made = re.fullmatch(r"(await )?([a-z_]+)\((.*)\)(?: -> \w+)?", text)
            if made:
                function = ast.parse(f"def it({made[3]}): ...").body[0]
                assert isinstance(function, ast.FunctionDef)
                yield made[2], function.args, bool(made[1]), row


def spelled(arguments: ast.arguments) -> list[tuple[str, str]]:
    """Names, with a star or the default as it is written."""
    positional = [(arg.arg, "") for arg in arguments.args]
    for at, default in enumerate(arguments.defaults, len(positional) - len(arguments.defaults)):
        positional[at] = positional[at][0], ast.unparse(default)
    keywords = [
        (arg.arg, "" if default is None else ast.unparse(default))
        for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    rest = [(f"*{arguments.vararg.arg}", "")] if arguments.vararg else []
    return [*positional, *rest, *keywords]


def wanted(member: Any) -> list[tuple[str, str]]:
    """The same of the code."""
    found = []
    for parameter in list(inspect.signature(member).parameters.values())[1:]:
        name = f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
        empty = parameter.default is parameter.empty
        found.append((name, "" if empty else getattr(parameter.default, "name", repr(parameter.default))))
    return found


def is_awaited(member: Any) -> bool:
    returned = str(inspect.signature(member).return_annotation)
    return inspect.iscoroutinefunction(member) or returned.startswith(("Coroutine", "Awaitable"))


@pytest.mark.parametrize("name", CLASSES)
def test_each_call_is_made_as_the_page_says(name):
    seen = 0
    for member_name, arguments, awaited, _ in calls(name):
        member = getattr(getattr(everycore, name), member_name)
        assert is_awaited(member) == awaited, member_name
        if member_name == "setup_primary":
            assert {argument for argument, _ in spelled(arguments)} == set(SettingsFields.__annotations__)
        else:
            assert spelled(arguments) == wanted(member), member_name
        seen += 1
    assert seen


@pytest.mark.parametrize("name", CLASSES)
def test_the_page_names_what_a_call_raises(name):
    """All that the docstring names; that of a call like another's is said there."""
    missing: list[str] = []
    for member_name, _, _, row in calls(name):
        text = inspect.getdoc(getattr(getattr(everycore, name), member_name)) or ""
        raised = re.search(r"Raises:? (.*?)(?:\.(?:\s|$)|\Z)", text, re.DOTALL)
        if raised is None or re.search(r"\bas (those of )?`", row):
            continue
        said = row + section(name).partition("| member |")[0] + section(name).rpartition("|\n")[2]
        named = ERRORS & set(re.findall(r"\w+", raised[1]))
        missing += [f"{name}.{member_name}: {error}" for error in sorted(named) if error not in said]
    assert missing == []
