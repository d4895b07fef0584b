"""A command whose options are the fields of a settings tree, and, on demand, the options of the engine.

This is click's part in `serve` and `run`: it cuts the command line into words, answers options of other
servers, and shows the help in sections. Invariant: a mistake on the command line is a `click.UsageError` or
a ConfigurationError before anything is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from everycore.cli.options import Given, SettingOption, click_options, config_option, own_fields, taken
from everycore.config.sections import SECTIONS
from everycore.config.setting import Field

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class SettingsCommand(click.Command):
    """A command with the options of a settings tree. `tree` is the name of that tree."""

    def __init__(self, *args: Any, tree: str, has_engine: bool = False, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.tree = tree
        self._has_engine = has_engine
        self.fields: list[Field] = list(own_fields(tree))
        self._is_whole = not has_engine
        self.params = [*self.params, config_option(), *click_options(self.fields)]

    def complete_fields(self) -> None:
        """Add the engine's options, for good."""
        if not self._is_whole:
            self._is_whole = True
            self.fields += self.engine()
            self.params += click_options(self.engine())

    @staticmethod
    def engine() -> Sequence[Field]:
        """The options of the engine."""
        from everycore.cli.engine import engine  # late: it imports the engine

        return engine()

    def given(self, context: click.Context) -> Given:
        """What the command line says, as settings."""
        return Given(self.tree, self.fields, context, self.engine)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words. An option that is not in the tree may be the engine's, or another server's."""
        if ctx.resilient_parsing:  # for completion: an unfinished line is not an error
            known = taken(self.fields)
            if any(word.startswith("--") and word.partition("=")[0] not in known for word in args):
                self.complete_fields()
            return super().parse_args(ctx, list(args))
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            self._answer(error, ctx, args)
        self.complete_fields()
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            self._answer(error, ctx, args)
            raise

    def _answer(self, error: click.NoSuchOption, ctx: click.Context, args: Sequence[str]) -> None:
        """Raise UsageError for an option of another server. The text answers all such options of the line.

        A start script from another server has many of them, and its reader wants to see them all at once.
        """
        from everycore.cli.answers import answer  # late: for what is wrong

        option = error.option_name
        text = answer(option)
        if not self._has_engine and option in taken(own_fields("serve")):
            text = "an option of everycore serve; a program's own options follow its name"
        if text is None:
            return
        lines = [f"{option}: {text}"]
        if self._has_engine:  # under `run`, the options after the program are its own
            strange = (word for word in option_words(args, self.params) if word != option)
            lines += [f"  {word}: {also}" for word in dict.fromkeys(strange) if (also := answer(word))]
        raise click.UsageError("\n".join(lines), ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """The options that begin like this; if no visible one does, the spellings of other servers."""
        from click.shell_completion import CompletionItem

        if self._has_engine and incomplete.startswith("-"):
            self.complete_fields()
        hidden = [
            CompletionItem(word, help=option.help)
            for option in self.get_params(ctx)
            if isinstance(option, SettingOption) and option.hidden
            for word in option.opts
            if word.startswith(incomplete)
        ]
        return super().shell_complete(ctx, incomplete) or (hidden if incomplete.startswith("-") else [])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write everycore's options in sections, then those of the engine."""
        self.complete_fields()
        sections: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Argument) or record is None:
                continue
            rows = others
            if isinstance(parameter, SettingOption):
                rows = sections.setdefault(parameter.field.setting.section, [])
            rows.append(record)
        for section, rows in {**sections, "Others": others}.items():
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows, col_max=34)


def option_words(args: Sequence[str], options: Sequence[click.Parameter]) -> Iterator[str]:
    """The options among the words of a command line, without their values."""
    with_value = words_with_value(options)
    words = iter(args)
    for word in words:
        if word == "--":
            return
        option, equals, _ = word.partition("=")
        if option in with_value and not equals:
            next(words, None)
        elif word.startswith("-"):
            yield option


def words_with_value(options: Sequence[click.Parameter]) -> frozenset[str]:
    """The spellings of the options that take a value, which may be the next word."""
    return frozenset(
        word
        for option in options
        if isinstance(option, click.Option) and not option.is_flag
        for word in option.opts
    )
