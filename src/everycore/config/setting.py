"""What is said about one setting beside its type and default: the `Setting` in the `Annotated` of a field.

`fields_of` reads them. A `Field` is a setting with its name and default; others than those of the tree (the
engine's options) are fields too, and everything that derives from fields holds for them as well. Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from everycore.config.kinds import Kind

PREFIX: Final = "EVERYCORE_"


class Setting:
    """How a setting is given and shown.

    also: further spellings of the option, those of other servers among them.
    variables: asked after the variable of its own name.
    implied: variables that set the default, and to what; None: to what the variable holds.
    default: the default in words, where the value alone would not tell.
    is_fixed: a reload does not change it; the service is started again for that.
    is_secret: never shown, nor put on a command line.
    is_argument: it is given by its place, not by an option.
    """

    def __init__(
        self,
        kind: Kind,
        help: str,
        section: str,
        *,
        also: tuple[str, ...] = (),
        variables: tuple[str, ...] = (),
        implied: Mapping[str, Any] | None = None,
        default: str = "",
        is_fixed: bool = False,
        is_secret: bool = False,
        is_argument: bool = False,
    ) -> None:
        self.kind = kind
        self.help = help
        self.section = section
        self.also = also
        self.variables = variables
        self.implied = implied or {}
        self.default = default
        self.is_fixed = is_fixed
        self.is_secret = is_secret
        self.is_argument = is_argument


class Field:
    """A setting with its name (`stop_delay`) and its default."""

    __slots__ = ("default", "name", "setting")

    def __init__(self, name: str, default: Any, setting: Setting) -> None:
        self.name = name
        self.default = default
        self.setting = setting

    @property
    def option(self) -> str:
        """`--stop-delay`; APP is given by its place."""
        return self.name.upper() if self.setting.is_argument else f"--{self.key}"

    @property
    def key(self) -> str:
        """`stop-delay`, in a file."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`EVERYCORE_STOP_DELAY`."""
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default, as `--help` has it."""
        if self.setting.default:
            return self.setting.default
        return "" if self.default in (None, (), {}) else shown(self.default)


class EngineField(Field):
    """A field whose name, in `Config`, may differ from that of its option: `headers`, `--header`."""

    __slots__ = ("parameter",)

    def __init__(self, parameter: str, name: str, setting: Setting) -> None:
        super().__init__(name, None, setting)
        #: What `Config` calls it.
        self.parameter = parameter


def shown(value: Any) -> str:
    """A value as a person writes it."""
    match value:
        case None:
            return "-"
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple() | list():
            return ", ".join(map(shown, value)) or "-"
        case dict():
            return ", ".join(f"{name}={text}" for name, text in value.items()) or "-"
    return str(value)


@functools.cache
def fields_of(tree: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The fields of a tree, in the order in which they are written."""
    found = []
    for field in msgspec.structs.fields(tree):
        (setting,) = [word for word in field.type.__metadata__ if isinstance(word, Setting)]
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        found.append(Field(field.name, default, setting))
    return tuple(found)
