"""The values of a command's settings: click's options made from fields, and all layers read together.

This is the edge between click and `config`. Invariant: click only cuts the command line into words; every
value is read and checked by its field, whichever layer it comes from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everycore.config.common import CommonSettings
from everycore.config.layers import (
    File,
    Found,
    Layer,
    foreign_variables,
    resolve,
    unknown_keys,
    unknown_variables,
)
from everycore.config.setting import PREFIX, EngineField, Field, fields_of
from everycore.config.tree import RunSettings, ServeSettings
from everycore.errors import ConfigurationError
from everycore.ops.settings_file import passed_over, read_settings_file
from everycore.role import working_directory
from everycore.system.machine import Bound, cpu_bound, memory_limit, worker_bound

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

T = TypeVar("T", bound=CommonSettings)
FOLDER_IS_GONE = "the current folder no longer exists; use a path that begins at the root"
#: Click's own settings, the same for every command.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
TREES: dict[str, type[ServeSettings | RunSettings]] = {"serve": ServeSettings, "run": RunSettings}


def own_fields(command: str) -> tuple[Field, ...]:
    """The fields of a command's settings tree."""
    return fields_of(TREES[command])


def taken(fields: Iterable[Field]) -> frozenset[str]:
    """All spellings of the options of `fields`."""
    return frozenset(spelling for field in fields for spelling in (field.option, *field.setting.also))


# --- click's options ----------------------------------------------------------------------------------------


class SettingOption(click.Option):
    """A click option for one spelling of a setting."""

    def __init__(self, field: Field, spelling: str, *, is_main: bool) -> None:
        setting, form = field.setting, field.setting.kind.form
        self.field = field
        self.spelling = spelling
        declared = f"{spelling}/--no-{spelling.removeprefix('--')}" if form == "switch" else spelling
        #: Click's name for this option. The setting's name is the field's.
        name = spelling.lstrip("-").replace("-", "_") if not is_main else field.name
        super().__init__(
            [name if len(name) > 1 else f"{field.name}_{name}", declared],
            default=None,
            multiple=form == "several",
            is_flag=form == "switch" or None,
            type=click.BOOL if form == "switch" else click.UNPROCESSED,
            metavar=setting.kind.metavar or None,
            help=_help(field),
            hidden=not is_main,
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """The values that may follow this option."""
        from everycore.cli.candidates import of_value  # late: only completion needs it

        return of_value(self.field, incomplete)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The line of `--help`: all spellings together, and the text."""
        if self.hidden:
            return None
        setting = self.field.setting
        short = [word for word in setting.also if not word.startswith("--")]
        is_on = self.field.default is True or setting.default == "on"
        spelling = self.secondary_opts[0] if is_on and self.secondary_opts else self.spelling
        words = ", ".join([*short, spelling])
        return f"{words} {setting.kind.metavar}".rstrip(), _help(self.field)


def _help(field: Field) -> str:
    setting = field.setting
    also = ", ".join(word for word in setting.also if word.startswith("--"))
    text = setting.help + (f" (also {also})" if also else "")
    default = field.default_text
    is_plain = setting.kind.form == "switch" and default in ("on", "off")
    return f"{text}  [default: {default}]" if default and not is_plain else text


def click_options(fields: Iterable[Field]) -> list[click.Parameter]:
    """The click options of `fields`: one for each spelling."""
    found: list[click.Parameter] = []
    for field in fields:
        if field.setting.is_argument:
            continue
        found.append(SettingOption(field, field.option, is_main=True))
        found += [SettingOption(field, spelling, is_main=False) for spelling in field.setting.also]
    return found


def config_option() -> click.Option:
    """`--config`, which names the file."""
    return click.Option(
        ["config_file", "--config", "-c"],
        metavar="FILE",
        type=click.UNPROCESSED,
        shell_complete=completed_by("files"),
        help="The settings file.  [default: everycore.toml, else pyproject.toml]",
    )


def completed_by(name: str) -> Completer:
    """The completer of that name in `cli.candidates`, which is imported when a shell asks."""

    def complete(
        ctx: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from everycore.cli import candidates  # late: only completion needs it

        completer: Completer = getattr(candidates, name)
        return completer(ctx, parameter, incomplete)

    return complete


# --- what was given -----------------------------------------------------------------------------------------


class Given:
    """What the command line says: the values of options by field, and the settings file that it names.

    engine: returns the engine's options; called if an unknown key or variable may be one of them.
    here: the current folder, by the path that led to it. A reload follows that path anew.
    """

    def __init__(
        self,
        command: str,
        fields: Sequence[Field],
        context: click.Context,
        engine: Callable[[], Sequence[Field]],
    ) -> None:
        self.command = command
        self.fields = tuple(fields)
        self.engine = engine
        self.here = working_directory(os.environ)
        self.file: str | None = context.params.get("config_file")
        self.options: dict[str, tuple[Any, str]] = {}
        for option in context.command.get_params(context):
            if isinstance(option, SettingOption) and option.name is not None:
                value = context.params.get(option.name)
                if value is not None and value != ():
                    self._add(option, list(value) if isinstance(value, tuple) else value)

    def _add(self, option: SettingOption, value: Any) -> None:
        name = option.field.name
        spelling = f"--no-{option.spelling[2:]}" if value is False else option.spelling
        if name in self.options:
            other, where = self.options[name]
            if isinstance(other, list):
                value = other + value
            elif other != value:
                raise ConfigurationError(
                    spelling, f"{value!r} contradicts {where}, which is the same setting: {other!r}"
                )
        self.options[name] = value, spelling


@contextlib.contextmanager
def naming_sources(values: Values) -> Iterator[None]:
    """Add to a ConfigurationError from this block where the option's value came from.

    The code that finds the fault (in an address, or a folder that is missing) knows the value alone.
    """
    try:
        yield
    except ConfigurationError as error:
        for field in values.fields:
            found = values.found[field.name]
            if field.option != error.setting or error.source != "argument" or not found.is_explicit:
                continue
            if found.layer == Layer.OPTION:
                raise ConfigurationError(found.source, error.problem) from None
            raise ConfigurationError(error.setting, error.problem, source=found.source) from None
        raise


class Values:
    """The value of every setting, and where it came from."""

    def __init__(
        self, fields: Sequence[Field], found: Mapping[str, Found], file: File | None, ignored: Sequence[str]
    ) -> None:
        self.fields = fields
        self.found = found
        self.file = file
        #: Sentences about settings that nothing reads.
        self.ignored = ignored

    def tree(self, kind: type[T]) -> T:
        """The values as a settings tree of type `kind`."""
        return kind(**{field.name: self.found[field.name].value for field in fields_of(kind)})

    def engine(self, *, secret: bool) -> dict[str, Any]:
        """The values of the engine's options that were given, by the engine's names for them.

        secret: return the secret ones, rather than the others.
        """
        return {
            field.parameter: self.found[field.name].value
            for field in self.fields
            if isinstance(field, EngineField)
            and field.setting.is_secret == secret
            and self.found[field.name].is_explicit
        }


def read_values(given: Given, environ: Mapping[str, str]) -> Values:
    """Read all layers and merge them. Raises ConfigurationError."""
    file = read_settings_file(given.file, environ, given.here)
    fields = given.fields
    foreign = foreign_variables(environ) if given.command == "serve" else []
    ignored = [f"the variable {name} is another server's, and ignored{hint}" for name, hint in foreign]
    if file is None and not any(name.startswith(PREFIX) for name in environ):
        return Values(fields, resolve(fields, given.options, environ, file, given.command), file, ignored)
    known = _known(fields)
    unread = unknown_variables(environ, known["serve"])
    strange = [] if file is None else unknown_keys(file, known)
    if unread or strange:
        engine = given.engine()
        known = _known([*fields, *engine])
        if given.command == "serve":
            fields = tuple(dict.fromkeys([*fields, *engine]))
        unread = unknown_variables(environ, known["serve"])
        if file is not None:
            _check_keys(unknown_keys(file, known), fields, file)
    found = resolve(fields, given.options, environ, file, given.command)
    ignored += [] if file is None else passed_over(file, given.here)
    ignored += [f"the variable {name} is not known, and ignored{hint}" for name, hint in unread]
    return Values(fields, found, file, ignored)


def _check_keys(unknown: Sequence[tuple[str, str]], fields: Sequence[Field], file: File) -> None:
    """Raise ConfigurationError for all unknown keys at once: the file of another server has many."""
    if not unknown:
        return
    from everycore.cli.keys import answer_to_key  # late: only an error needs it

    texts = {}
    for key, hint in unknown:
        text = answer_to_key(key, fields)
        texts[key] = f"there is no such setting{f'; {text}' if text else hint}"
    (first, problem), *others = texts.items()
    rest = "".join(f"\n  {key}: {text.removeprefix('there is no such setting; ')}" for key, text in others)
    raise ConfigurationError(first, problem + rest, source=file.label)


def _known(fields: Sequence[Field]) -> dict[str, Sequence[Field]]:
    return {"serve": [*own_fields("serve"), *fields], "run": own_fields("run")}


def worker_count(values: Values) -> Bound:
    """The number of workers, and the reason for it."""
    found, reload = values.found["workers"], values.found["reload"]
    if reload.value and not (found.is_explicit and found.layer >= reload.layer):
        ignores = f" ignores {found.source}; type --workers for more" if found.is_explicit else ""
        return Bound(1, f"{reload.source}{ignores}")
    if found.value == "auto":
        bound = worker_bound(cpu_bound(), memory_limit())
        return Bound(bound.count, f"auto: {bound.reason}")
    return Bound(found.value, found.source)


def folder(values: Values, here: str | None) -> str | None:
    """The absolute path of `--chdir`; None if it is not set. Raises ConfigurationError."""
    found = values.found["chdir"]
    if found.value is None:
        return None
    path: str = os.path.join(here or "", found.value)
    if not os.path.isabs(path):
        raise ConfigurationError("--chdir", FOLDER_IS_GONE)
    if not os.path.isdir(path):
        raise ConfigurationError("--chdir", f"there is no folder {found.value!r}")
    return path
