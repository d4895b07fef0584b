"""Draws the tables of options and variables from the tree of settings that the commands use.

python docs/make_options.py [--check]    # rewrites the pages; --check only says whether they are current
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from everycore.cli.options import own_fields
from everycore.config.access_format import ATOMS, HEADER_ATOMS
from everycore.config.sections import SECTIONS
from everycore.config.setting import Field
from everycore.servers.hypercorn_options import hypercorn_fields, is_hypercorns_own

REFERENCE = Path(__file__).parent / "reference"
BEGIN, END = "<!-- begin {}: made by docs/make_options.py -->", "<!-- end -->"


def options(command: str) -> str:
    """The options of a command, by section."""
    lines = ["| option | value | default | meaning |", "|---|---|---|---|"]
    for field in in_sections(command):
        setting = field.setting
        if setting.is_argument:
            continue
        switch = setting.kind.form == "switch"
        negative = [f"--no-{field.key}"] if switch else []
        words = ", ".join(f"`{word}`" for word in (field.option, *setting.also, *negative))
        value = "" if switch else f"`{setting.kind.metavar}`"
        default = field.default_text or ("off" if switch else "")
        mark = " †" if setting.is_fixed else ""
        lines.append(f"| {words}{mark} | {cell(value)} | {cell(default)} | {cell(setting.help)} |")
    lines.append(
        "| `--config`, `-c` | `FILE` | `everycore.toml`, else `pyproject.toml` | the settings file |"
    )
    return "\n".join(lines)


def hypercorn() -> str:
    """The options of `--engine hypercorn` beside those of uvicorn's name."""
    lines = ["| option | value | meaning |", "|---|---|---|"]
    for field in hypercorn_fields(frozenset()):
        if is_hypercorns_own(field):
            words = ", ".join(f"`{word}`" for word in (field.option, *field.setting.also))
            lines.append(f"| {words} | `{field.setting.kind.metavar}` | {cell(field.setting.help)} |")
    return "\n".join(lines)


def in_sections(command: str) -> Iterator[Field]:
    for section in SECTIONS:
        yield from (field for field in own_fields(command) if field.setting.section == section)


def variables() -> str:
    """The variables of all settings."""
    lines = ["| variable | of | key of the file | option |", "|---|---|---|---|"]
    run = {field.name for field in own_fields("run")}
    for field in in_sections("serve"):
        names = ", ".join(f"`{name}`" for name in (field.variable, *field.setting.variables))
        commands = "`serve`, `run`" if field.name in run else "`serve`"
        lines.append(f"| {names} | {commands} | `{field.key}` | `{field.option}` |")
    return "\n".join(lines)


def atoms() -> str:
    """The atoms of an access format."""
    rows = [f"| `%({name})s` | {meaning} |" for name, meaning in (ATOMS | HEADER_ATOMS).items()]
    return "\n".join(["| atom | |", "|---|---|", *rows])


def cell(text: str) -> str:
    return text.replace("|", "\\|")


DRAWN: dict[tuple[str, str], Callable[[], str]] = {
    ("cli.md", "serve"): lambda: options("serve"),
    ("cli.md", "run"): lambda: options("run"),
    ("cli.md", "atoms"): atoms,
    ("cli.md", "hypercorn"): hypercorn,
    ("settings.md", "variables"): variables,
}


def page(name: str, old: str) -> str:
    """The page with fresh tables. Raises ValueError if the place of one is missing."""
    for (owner, table), draw in DRAWN.items():
        if owner != name:
            continue
        begin = BEGIN.format(table)
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(END)}", re.DOTALL)
        fresh = f"{begin}\n\n{draw()}\n\n{END}"
        old, count = pattern.subn(lambda _, fresh=fresh: fresh, old)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{name} has no place for {table!r}, or two")
    return old


def main(argv: list[str]) -> int:
    stale = 0
    for name in sorted({name for name, _ in DRAWN}):
        path = REFERENCE / name
        old = path.read_text(encoding="utf-8")
        new = page(name, old)
        if old == new:
            continue
        stale = 1
        if "--check" in argv:
            print(f"{path} is not current: run python docs/make_options.py")
        else:
            path.write_text(new, encoding="utf-8")
    return stale if "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
