"""`everycore config`: every setting, its value, and where the value came from.

The command shows what `serve` or `run` would start with, checks it, or prints the schema of the settings
file. Invariant: it reads exactly what the command itself would read, and starts nothing.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from typing import Any, Final

import click

from everycore.cli.command import SettingsCommand, words_with_value
from everycore.cli.engine import engine
from everycore.cli.options import CONTEXT, Values, completed_by, own_fields
from everycore.config.kinds import Mode
from everycore.config.layers import Layer
from everycore.config.schema import schema
from everycore.config.setting import Field, shown

#: Switches of this command that may also follow `serve` or `run`, among their options.
_SWITCHES: Final = frozenset({"--check", "--json", "--schema", "--all"})
_HIDDEN: Final = "(not shown)"

EPILOG = """
\b
Examples:
  everycore config                              what `everycore serve` would start with here
  everycore config serve --workers 4 main:app   the same, with these options
  everycore config --check                      print errors only, and set the exit status
  everycore config --schema > schema.json       for an editor
"""


@click.command(
    short_help="Show every setting, and where its value came from.",
    epilog=EPILOG,
    context_settings={**CONTEXT, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--check", is_flag=True, help="Print errors alone; the exit status is 2 if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON schema of everycore.toml instead.")
@click.option(
    "--all", "everything", is_flag=True, help="Show the engine's options too, even those that are not set."
)
@click.argument(
    "command",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[serve|run] [OPTIONS] [APP]",
    shell_complete=completed_by("commands"),
)
def config(*, check: bool, as_json: bool, as_schema: bool, everything: bool, command: tuple[str, ...]) -> int:
    """Show every setting of `everycore serve`, or of `run`, with its value and the source of the value."""
    name, words = (command[0], command[1:]) if command[:1] in (("serve",), ("run",)) else ("serve", command)
    its = _command(name)
    rest, switches = _split(its, words)
    if as_schema or "--schema" in switches:
        fields = {"serve": [*own_fields("serve"), *engine()], "run": own_fields("run")}
        click.echo(json.dumps(schema(fields), indent=2))
        return 0
    values = _read(its, rest)
    for line in values.ignored:
        click.echo(f"everycore: {line}", err=True)
    if check or "--check" in switches:
        return 0
    rows = [(field, values.found[field.name]) for field in values.fields]
    rows = [
        (field, found)
        for field, found in rows
        if everything or "--all" in switches or found.layer > Layer.DEFAULT or field in own_fields(name)
    ]
    if as_json or "--json" in switches:
        click.echo(
            json.dumps(
                {field.key: {"value": _value(field, found), "source": found.source} for field, found in rows},
                indent=2,
            )
        )
        return 0
    width = max(len(field.key) for field, _ in rows)
    texts = {field.name: _text(field, found) for field, found in rows}
    column = min(max(map(len, texts.values())), 40)
    for field, found in rows:
        click.echo(f"{field.key:{width}}  {texts[field.name]:{column}}  {found.source}")
    return 0


def _command(name: str) -> SettingsCommand:
    """`serve` with all its options, or `run`."""
    from everycore.cli import run, serve  # late: only the command that is asked for is imported

    command = getattr(serve if name == "serve" else run, name)
    assert isinstance(command, SettingsCommand)
    if name == "serve":
        command.complete_fields()
    return command


def _split(command: SettingsCommand, words: Iterable[str]) -> tuple[list[str], set[str]]:
    """Split the words into the command's own and the switches of `config`.

    Words after a program are the program's.
    """
    with_value = words_with_value(command.params)
    rest: list[str] = []
    switches: set[str] = set()
    left = iter(words)
    for word in left:
        if word == "--" or (command.tree == "run" and not word.startswith("-")):
            return [*rest, word, *left], switches
        if word in _SWITCHES:
            switches.add(word)
            continue
        rest.append(word)
        if word in with_value:
            rest += itertools.islice(left, 1)
    return rest, switches


def _read(command: SettingsCommand, words: list[str]) -> Values:
    """Read and check the settings as the command itself does. Raises the same errors."""
    from everycore.cli import run, serve  # late: see above

    with command.make_context(f"everycore {command.tree}", words) as context:
        if command.tree == "serve":
            given = serve.given_by(context)
            given.fields = tuple(command.fields)
            return serve.check(given, os.environ)
        given = command.given(context)
        options = run.read_options(given, ["program"], os.environ)
        run.watch_of(given, options, os.environ)
        return options.values


def _value(field: Field, found: Any) -> Any:
    return _HIDDEN if field.setting.is_secret and found.value is not None else found.value


def _text(field: Field, found: Any) -> str:
    if found.value in (None, ()) and found.layer == Layer.DEFAULT:
        return field.default_text or "-"
    if isinstance(field.setting.kind, Mode) and isinstance(found.value, int):
        return f"0o{found.value:03o}"
    return shown(_value(field, found))
