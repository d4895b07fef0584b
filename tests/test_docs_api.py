"""The pages of names: `docs/make_api.py` draws them from the code, completely and readably."""

import enum
import importlib.util
import re
import sys
from types import ModuleType

import pytest

import everycore
from everycore import testing
from tests.kit.folders import ROOT

REFERENCE = ROOT / "docs/reference"
PACKAGES = {"api": everycore, "testing": testing}


@pytest.fixture(scope="module")
def make_api():
    """The script, as a module."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        found = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "docs"))


def headings(page: str) -> list[str]:
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^#### `([\w.]+)`$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PACKAGES)
def test_every_public_member_has_a_heading(page):
    """The page has what completion shows of an object. Fields of structs are in their list."""
    missing = []
    for name in PACKAGES[page].__all__:
        cls = getattr(PACKAGES[page], name)
        if not isinstance(cls, type) or issubclass(cls, enum.Enum):
            continue
        for base in cls.__mro__:
            if base.__module__.startswith("everycore"):
                missing += [
                    f"{name}.{member}"
                    for member, value in vars(base).items()
                    if not member.startswith("_") and (callable(value) or isinstance(value, property))
                ]
    kept_back = {"ClusterSocket", "VirtualTimeLoop"}  # a part of these is promised
    assert {name for name in missing if name.partition(".")[0] not in kept_back} <= set(headings(page))
    assert len(headings(page)) == len(set(headings(page))) > 20


def test_a_worker_context_shows_nothing_that_the_page_has_not():
    shown = {name for name in dir(everycore.WorkerContext) if not name.startswith("_")}
    assert {f"WorkerContext.{name}" for name in shown} <= set(headings("api"))
    assert everycore.WorkerContext.__slots__ == ("_session",)  # nor can an object have more than its class


def test_what_is_kept_back_exists(make_api):
    """A name that is not promised and no longer exists is removed from the list."""
    for owner, names in make_api.NOT_PROMISED.items():
        cls = getattr(everycore, owner, None) or getattr(testing, owner)
        assert [name for name in names if not hasattr(cls, name)] == []


def module_with(**values: object) -> ModuleType:
    module = ModuleType("everycore.drawn")
    vars(module).update(values)
    return module


def test_a_call_is_drawn_with_its_arguments(make_api):
    def call(name: str, *more: int, kind: str = "one", colour: "Colour" = Colour.RED) -> bool:
        """Do it.

        name: of what
            is done.
        more, kind: the rest.

        Raises: OSError.
        """
        return bool(name or more or kind or colour)

    drawn = make_api.entry(module_with(call=call), "call")
    assert drawn.splitlines() == [
        "    call(name: str, *more: int, kind: str = 'one', colour: Colour = tests.RED) -> bool",
        "",
        "Do it.",
        "",
        "* `name`: of what",
        "  is done.",
        "* `more`, `kind`: the rest.",
        "",
        "Raises: OSError.",
    ]


class Colour(enum.Enum):
    """A colour."""

    RED = 1


def test_a_long_call_has_a_line_for_each_argument(make_api):
    async def call(
        first_of_all_the_names: int, /, second_of_all_the_names: int, *, third_of_all_the_names: int = 3
    ) -> None:
        """Do it."""

    assert make_api.entry(module_with(call=call), "call").splitlines()[:8] == [
        "    async call(",
        "        first_of_all_the_names: int,",
        "        /,",
        "        second_of_all_the_names: int,",
        "        *,",
        "        third_of_all_the_names: int = 3,",
        "    ) -> None",
        "",
    ]


def test_a_name_without_words_is_refused(make_api):
    class Bare:
        """A class."""

        def call(self) -> None: ...

    Bare.__module__ = "everycore.drawn"
    with pytest.raises(make_api.Undocumented, match=r"Bare\.call has no docstring"):
        make_api.entry(module_with(Bare=Bare), "Bare")
    with pytest.raises(make_api.Undocumented, match="unheard_of has no comment"):
        make_api.entry(module_with(unheard_of=1), "unheard_of")
