"""What the tree says about a setting besides its type and default: the `Setting` in a field's `Annotated`.

`fields_of` reads these. A `Field` is a setting with its name and default. The engine's options are fields
too, so everything that derives from fields applies to them. The module is pure.
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

    also: further spellings of the option, including those of other servers.
    variables: variables that are read if the setting's own is not set.
    implied: variables that change the default, and its value then; None: the value of the variable.
    default: the default in words, if its value would not explain it.
    is_fixed: a reload does not change it; only a restart does.
    is_secret: it is never shown, nor put on a command line.
    is_argument: it is given by its position, not by an option.
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
        """`--stop-delay`; for an argument, its name in capitals: `APP`."""
        return self.name.upper() if self.setting.is_argument else f"--{self.key}"

    @property
    def key(self) -> str:
        """The key in a file: `stop-delay`."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: `EVERYCORE_STOP_DELAY`."""
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default, as `--help` shows it."""
        if self.setting.default:
            return self.setting.default
        return "" if self.default in (None, (), {}) else shown(self.default)


class EngineField(Field):
    """An option of an engine. Its `Config` may have another name for it: `headers` for `--header`."""

    __slots__ = ("parameter",)

    def __init__(self, parameter: str, name: str, setting: Setting) -> None:
        super().__init__(name, None, setting)
        #: The name in the engine's `Config`.
        self.parameter = parameter


def shown(value: Any) -> str:
    """A value as a user would write it."""
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
    """The fields of a tree, in the order of their definition."""
    found = []
    for field in msgspec.structs.fields(tree):
        (setting,) = [word for word in field.type.__metadata__ if isinstance(word, Setting)]
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        found.append(Field(field.name, default, setting))
    return tuple(found)
