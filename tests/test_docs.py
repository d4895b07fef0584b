"""The documentation is true: code compiles and runs, links lead somewhere, lists are complete.

A Python block is compiled. One behind `<!-- serves: PATTERN then PATTERN -->` is also started as a program,
with a free port in place of 8000. It has to print lines that match, one after the other, and to end with
status 0 when it is sent SIGTERM.
"""

import ast
import functools
import importlib
import inspect
import json
import logging
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest

import everycore
from everycore import errors, events, testing
from everycore.cli.engine import engine
from everycore.cli.main import everycore as command_line
from everycore.core import wire
from everycore.ops.access_log import Answered
from everycore.ops.log_formats import Speaker, formatter
from tests.kit.folders import ROOT, SOURCE

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
REFERENCE = ROOT / "docs" / "reference"

_FENCE = re.compile(
    r"(?:<!-- serves: (?P<serves>.*?) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TICKED = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    page: Path
    line: int
    code: str
    serves: str | None


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            if found["kind"] == "python":
                line = text.count("\n", 0, found.start("code")) + 1
                yield Block(page, line, found["code"], found["serves"])


def _named(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _rows(page: Path, heading: str | None = None) -> list[list[str]]:
    """The cells of every table row, or of those below one heading."""
    text = _prose(page)
    if heading is not None:
        text = _section(text, heading)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-: ")]


def _section(text: str, heading: str) -> str:
    """The text below `heading`, up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _ticked(text: str) -> list[str]:
    return _TICKED.findall(text)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# Code

BLOCKS = list(_blocks())


@pytest.mark.parametrize("block", BLOCKS, ids=_named)
def test_python_compiles(block):
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile("\n" * (block.line - 1) + block.code, str(block.page), "exec", flags=flags, dont_inherit=True)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.serves], ids=_named)
def test_a_whole_program_runs_and_ends(block, start_command, tmp_path):
    assert block.serves
    script = tmp_path / "program.py"
    script.write_text(block.code.replace("8000", str(_free_port())), encoding="utf-8")
    # Unbuffered, a line and its end are written apart, and those of several processes mix.
    program = start_command([sys.executable, str(script)], env={"PYTHONUNBUFFERED": None})
    for pattern in block.serves.split(" then "):
        program.expect(pattern)
    assert program.finish() == 0, program.report()
    assert "Traceback" not in program.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if "\ndef test_" in block.code], ids=_named)
def test_the_tests_of_a_page_pass(block):
    names: dict[str, Any] = {}
    exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()


@pytest.mark.slow
def test_the_script_of_the_readme_echoes(start_program):
    port = _free_port()
    (script,) = [block for block in BLOCKS if block.page.name == "README.md"]
    listening = "cluster.on(everycore.Listening, lambda event: print('listening', flush=True))\n            "
    code = script.code.replace("8000", str(port)).replace("for _ in", f"{listening}for _ in", 1)
    program = start_program(code)
    program.expect("listening")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"
    assert program.finish() == 0


# Links


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    heads = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    broken = []
    for link in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [
            page.parent / link.partition("#")[0] for link in _LINK.findall(_prose(page)) if "://" not in link
        ]
    assert [page for page in PAGES if page.resolve() not in seen] == []


def test_the_readme_of_a_package_index_has_absolute_links_alone():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (step,) = metadata["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.sub(step["pattern"], step["replacement"], text)
    assert len(_LINK.findall(text)) > 10
    assert [link for link in _LINK.findall(shown) if not re.match(r"https?:", link)] == []
    assert "all documentation" in shown  # the words stay


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("docs/how-to/*.md")), *sorted(ROOT.glob("docs/tutorial/*.md"))],
    ids=_name,
)
def test_a_page_to_follow_says_what_the_reader_has_at_its_end(page):
    before_any_section = page.read_text(encoding="utf-8").partition("\n## ")[0]
    said = re.findall(r"^(?:.*\. )?At the end you have (\w+.*)$", before_any_section, re.MULTILINE)
    assert len(said) == (page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_page_installs_a_release_that_is_not_there(page):
    """Once there is one, this test goes, and the pages name it."""
    if page.name in ("CHANGELOG.md", "messages.md"):  # the second has the texts of the code
        return
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^.*pip3? install '?everycore\b.*$", text, re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_words(page):
    """Rejected words, and traces of the machine on which a page was written."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\b[Mm]asters?\b(?!\")|/home/|/tmp/", text.replace('no "master"', "")) == []


def test_the_page_on_installing_has_every_extra():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = [_ticked(row[0]) for row in _rows(ROOT / "docs/how-to/install.md")[1:]]
    assert [name for names in rows for name in names] == list(metadata["project"]["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_calls_of_everycore_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\beverycore\.([a-z_]+)\(", text))
    assert sorted(name for name in named if not hasattr(everycore, name)) == []


# Lists


@pytest.mark.parametrize(("page", "names"), [("api", everycore.__all__), ("testing", testing.__all__)])
def test_a_page_of_names_has_every_public_one_once(page, names):
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(\w+)`$", text, re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize("name", ["FakeWorker", "FakeWorkers", "VirtualTimeLoop"])
def test_every_member_of_a_fake_is_named(name):
    section = _section((REFERENCE / "testing.md").read_text(encoding="utf-8"), f"### `{name}`")
    own = {member for member in vars(getattr(testing, name)) if not member.startswith("_")}
    # What every loop has, and the function of that name.
    inherited = {"run_in_executor", "shutdown_default_executor", "settle"}
    assert [member for member in own - inherited if not re.search(rf"\b{member}\b", section)] == []


def test_events_and_their_fields():
    rows = {
        _ticked(row[0])[0]: _ticked(row[1])
        for row in _rows(REFERENCE / "events.md")
        if len(row) == 3 and "`" in row[0]
    }
    for cls in vars(events).values():
        if not (isinstance(cls, type) and issubclass(cls, events.Event)) or cls in (
            events.Event,
            events.WorkerEvent,
        ):
            continue
        fields = [name for name in cls.__struct_fields__ if name not in ("seq", "at", "worker")]
        assert rows[cls.__name__][: len(fields)] == fields, cls.__name__


def test_errors_and_their_fields():
    rows = {
        _ticked(row[0])[0]: _ticked(row[1])
        for row in _rows(REFERENCE / "errors.md", "# Errors")
        if "`" in row[0]
    }
    for name, cls in vars(errors).items():
        if isinstance(cls, type) and issubclass(cls, errors.EverycoreError):
            made = vars(cls).get("__init__")
            fields = (
                [field for field in inspect.signature(made).parameters if field != "self"] if made else []
            )
            assert rows[name] == fields, name


@pytest.mark.parametrize(
    ("heading", "owner"),
    [("## Arguments of Cluster", "Cluster"), ("## Fields of Settings", "Settings")],
)
def test_settings_and_their_defaults(heading, owner):
    rows = {}
    for row in _rows(REFERENCE / "settings.md", heading)[1:]:
        for name in _ticked(row[0]):
            rows[name] = ast.literal_eval(_ticked(row[1])[0])
    wanted = {
        name: {} if "factory" in repr(parameter.default) else parameter.default
        for name, parameter in inspect.signature(getattr(everycore, owner)).parameters.items()
    }
    assert rows == wanted


def test_every_argument_of_pool_is_named():
    named = _ticked(_section((REFERENCE / "settings.md").read_text(encoding="utf-8"), "## Arguments of Pool"))
    assert set(inspect.signature(everycore.Pool).parameters) <= set(named)


def test_fixed_numbers_are_those_of_the_code():
    for row in _rows(REFERENCE / "settings.md", "## Fixed numbers")[1:]:
        module, _, name = _ticked(row[0])[0].rpartition(".")
        assert getattr(importlib.import_module(f"everycore.{module}"), name) == float(row[1]), row[0]


def test_fields_of_the_log():
    known = Answered(
        client="x:1", method="GET", target="/", version="1.1", status=200, seconds=1, size=1, request_id="x",
        request_headers=[(b"referer", b"x"), (b"user-agent", b"x")],
    )  # fmt: skip
    try:
        raise ValueError
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "", (), sys.exc_info(), sinfo="x")
    vars(record).update(answered=known)
    fields = json.loads(formatter("json", Speaker("worker", 1, 0, 0)).format(record))
    types = {bool: "true or false", int: "number", float: "number", str: "text"}
    rows = [row for row in _rows(REFERENCE / "log.md", "## JSON") if row[0] != "field"]
    assert {(_ticked(row[0])[0], row[1]) for row in rows} == {
        (name, types[type(value)]) for name, value in fields.items()
    }


def test_every_variable_is_named():
    text = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    for source in sorted((ROOT / "src").rglob("*.py")):
        for name in re.findall(r'"(_?EVERYCORE_[A-Z_]*[A-Z])"', source.read_text(encoding="utf-8")):
            assert f"`{name}`" in text, f"{name} of {source.name}"


# Command line


def _commands() -> dict[str, click.Command]:
    context = click.Context(command_line)
    found = {name: command_line.get_command(context, name) for name in command_line.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


@pytest.mark.parametrize("name", sorted(_commands()))
def test_options_of_a_command(name):
    documented: set[str] = set()
    for row in _rows(REFERENCE / "cli.md", f"## everycore {name}"):
        documented.update(option for option in _ticked(row[0]) if option.startswith("-"))
    command = _commands()[name]
    context = click.Context(command, help_option_names=["-h", "--help"])
    own = {option for parameter in command.get_params(context) for option in parameter.opts}
    engines = {field.option for field in engine()} | {
        word for field in engine() for word in field.setting.also
    }
    wanted = {option for option in own if option.startswith("-")} - engines
    hidden = {"--everycore-module", "--help", "-h", "--version"}
    assert documented - hidden - {word for word in documented if word.startswith("--no-")} == wanted - hidden


def test_no_other_commands_are_documented():
    heads = re.findall(
        r"^## everycore (\w+)$", (REFERENCE / "cli.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(heads) == sorted(_commands())


# Wire


def test_wire_messages_and_their_fields():
    rows = {
        _ticked(row[0])[0]: _ticked(row[2])
        for row in _rows(REFERENCE / "wire-protocol.md", "## Messages")[1:]
    }
    classes = {
        name: [field.name for field in msgspec.structs.fields(cls)]
        for name, cls in vars(wire).items()
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and not name.startswith("_")
    }
    assert rows == classes


# Drawings


@pytest.mark.parametrize(
    "name",
    [
        "make_states.py",
        "make_signals.py",
        "make_options.py",
        "make_coming_from.py",
        "make_deploy.py",
        "make_metrics.py",
        "make_servers.py",
        "make_api.py",
        "make_messages.py",
    ],
)
def test_drawn_pages_are_current(name):
    script = ROOT / "docs" / name
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0, (
        f"run python docs/{name}"
    )


# Names of the code in the pages that explain it


@functools.cache
def members() -> dict[str, set[str]]:
    """The members of each class: its methods, and what is assigned in it or to `self`."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                own = found.setdefault(node.name, set())
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        own.add(inner.name)
                    elif isinstance(inner, ast.Attribute):
                        own.add(inner.attr)
                    elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                        own.add(inner.target.id)
                    elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                        own.add(inner.id)
    return found


EXPLANATIONS = sorted(
    path
    for path in (ROOT / "docs" / "explanation").glob("*.md")
    if path.name != "foreign-internals.md"  # about the classes of others
)


@pytest.mark.parametrize("page", EXPLANATIONS, ids=lambda page: page.stem)
def test_what_a_page_names_is_in_the_code(page):
    """`Class.member` of a class of everycore; classes of other libraries are not looked up."""
    ours = members()
    named = re.findall(r"`([A-Z]\w+)\.(\w+)(?:\(\))?`", page.read_text(encoding="utf-8"))
    assert [f"{name}.{member}" for name, member in named if member not in ours.get(name, {member})] == []


def test_some_pages_name_the_code():
    text = "".join(page.read_text(encoding="utf-8") for page in EXPLANATIONS)
    assert len(re.findall(r"`[A-Z]\w+\.\w+(?:\(\))?`", text)) > 20
