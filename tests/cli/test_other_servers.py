"""Options of other servers, typed to everycore: they work, or the error says what to type."""

import ast
import importlib
import re
import shlex

import click
import pytest

from everycore.cli.answers import ANSWERS
from everycore.cli.engine import engine
from everycore.cli.keys import GUNICORN, HOOKS
from everycore.cli.main import main
from everycore.cli.options import own_fields, taken
from everycore.cli.serve import given_by, read_options
from everycore.cli.serve import serve as serve_command
from everycore.servers.engine_options import engine_fields
from tests.kit import other_keys, other_servers

pytestmark = pytest.mark.usefixtures("no_foreign_settings")

FORMS = [
    pytest.param(*[cell.strip() for cell in line.split(" | ")], id=f"{peer.lower()} {line.split(' | ')[0]}")
    for peer in ("UVICORN", "GUNICORN", "GRANIAN", "HYPERCORN", "WAITRESS", "PM2")
    for line in getattr(other_servers, peer).strip().splitlines()
]


def forms(*kinds: str):
    found = [param for param in FORMS if param.values[1] in kinds]
    assert found
    return found


def values(typed: str, *more: str):
    with serve_command.make_context("serve", [*shlex.split(typed), *more, "main:app"]) as context:
        return read_options(given_by(context), {})


#: The options that must accompany an option.
COMPANIONS = {"socket_mode": ["--uds", "x"]}


@pytest.mark.parametrize(("typed", "kind", "name", "value"), forms("ours"))
def test_a_setting_of_everycore(typed, kind, name, value):
    found = values(typed, *COMPANIONS.get(name, []))
    assert getattr(found.settings, name) == ast.literal_eval(value)


@pytest.mark.parametrize(("typed", "kind", "name", "value"), forms("engine"))
def test_an_argument_of_the_engine(typed, kind, name, value):
    needs_certificate = (name.startswith("ssl_") and name != "ssl_certfile") or name == "quic_bind"
    alone = ["--workers", "1", "--surge", "0"] * (name == "quic_bind")
    found = values(typed, *alone, *["--ssl-certfile", "/dev/null"] * needs_certificate).values
    assert (found.engine(secret=False) | found.engine(secret=True))[name] == ast.literal_eval(value)


@pytest.mark.parametrize(("typed", "kind", "begins"), forms("says"))
@pytest.mark.parametrize("command", ["serve", "run"])
def test_an_answer(command, typed, kind, begins, capsys):
    program = "main:app" if command == "serve" else "program.py"
    assert main([command, typed, program]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"everycore: {typed}: {begins}")
    assert printed.out == ""


def test_all_answers_at_once(capsys):
    """The options before `--`, without their values; each once."""
    typed = (
        "--no-sendfile -w 2 -k gthread --umask -t --http-parser=fast --log-file=-k --no-sendfile -- --spew"
    )
    assert main(["serve", *typed.split(), "main:app"]) == 2
    first, *rest, last = capsys.readouterr().err.splitlines()
    assert first == "everycore: --no-sendfile: leave it out; everycore does not use sendfile"
    assert [line.split(":")[0] for line in rest] == ["  -k", "  --http-parser"]
    assert last == "Try 'everycore serve --help'."


def test_what_stands_behind_a_program_is_its_own(capsys):
    assert main(["run", "--capture-output", "program.py", "--spew"]) == 2
    assert "--spew" not in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "kind", "begins"), forms("command"))
def test_an_answer_to_a_command(typed, kind, begins, capsys):
    assert main([typed]) == 2
    assert capsys.readouterr().err.startswith(f"everycore: {typed}: {begins}")


@pytest.mark.parametrize(("typed", "kind"), forms("file"))
def test_the_settings_file(typed, kind, tmp_path):
    (tmp_path / "everycore.toml").write_text("grace = 3")
    assert values(typed).settings.grace == 3.0


@pytest.mark.parametrize(("typed", "kind"), forms("prints"))
def test_what_prints_and_ends(typed, kind, capsys):
    assert main(["serve", typed]) == 0
    assert "everycore" in capsys.readouterr().out


def test_not_yet_is_said_of_what_is_to_come():
    for option in ("--cron-restart", "--capture-output"):
        assert ANSWERS[option].startswith("not yet: ")


def test_an_option_of_serve_is_explained_to_run(capsys):
    assert main(["run", "--bind", ":80", "x.py"]) == 2
    assert "--bind: an option of everycore serve" in capsys.readouterr().err


# Keys of their files


@pytest.mark.parametrize("line", other_keys.KEYS.strip().splitlines())
def test_a_key_of_another_server(line, tmp_path, capsys):
    key, value, begins = (cell.strip() for cell in line.split(" | "))
    (tmp_path / "everycore.toml").write_text(f"{key} = {value}")
    assert main(["serve", "main:app"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"everycore: {key} (from everycore.toml): there is no such setting; {begins}")


def test_all_keys_that_are_none_are_told_at_once(tmp_path, capsys):
    (tmp_path / "everycore.toml").write_text("pidfile = 'x'\nworkrs = 1\n[serve]\nnonsense = 1\n")
    assert main(["serve", "main:app"]) == 2
    assert capsys.readouterr().err.splitlines()[:3] == [
        "everycore: pidfile (from everycore.toml): there is no such setting; the key is 'pid'",
        "  workrs: did you mean 'workers'?",
        "  serve.nonsense: there is no such setting",
    ]


def test_every_hook_of_gunicorn_has_an_answer():
    typed = {line.split(" | ")[0] for line in other_keys.KEYS.strip().splitlines()}
    assert set(HOOKS) | set(GUNICORN) <= typed


def test_no_answer_hides_a_setting():
    assert frozenset(ANSWERS) & (taken(own_fields("serve")) | taken(own_fields("run"))) == frozenset()


# The installed ones, and the next uvicorn


def typed_of(peer: str) -> set[str]:
    lines = getattr(other_servers, peer).strip().splitlines()
    return {line.removeprefix("--engine hypercorn ").split()[0] for line in lines}


def test_every_option_of_the_installed_hypercorn_is_typed(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("hypercorn.__main__").main(["--help"])
    lines = re.findall(r"^  (-.*?)(?:  .*)?$", capsys.readouterr().out, re.MULTILINE)
    options = {word for line in lines for word in re.findall(r"(?:^|, )(--?[a-z-]+)", line, re.IGNORECASE)}
    assert len(options) > 40
    assert options <= typed_of("HYPERCORN")


def test_every_option_of_the_installed_waitress_is_typed():
    text = importlib.import_module("waitress.runner").HELP
    options = re.findall(r"^    (--\S+?)(?:=.*)?$", text, re.MULTILINE)
    assert len(options) > 20
    assert {word.replace("[no-]", "") for word in options} <= typed_of("WAITRESS")


def test_every_option_of_the_installed_uvicorn_is_taken_or_answered():
    known = taken(own_fields("serve")) | taken(engine()) | frozenset(ANSWERS) | {"--version"}
    command = importlib.import_module("uvicorn.main").main
    assert [
        option.opts
        for option in command.params
        if isinstance(option, click.Option) and not known & set(option.opts)
    ] == []


def test_an_option_of_the_next_uvicorn_needs_no_work(monkeypatch):
    class Config:
        def __init__(self, app: str, next_thing: int = 5, headers: object = None) -> None:
            pass

    @click.command()
    @click.option("--next-thing", type=int, default=5, help="What comes next.")
    @click.option("--not-for-config", type=int)
    def command() -> None:
        pass

    uvicorn = importlib.import_module("uvicorn")
    monkeypatch.setattr(uvicorn, "Config", Config)
    monkeypatch.setattr(importlib.import_module("uvicorn.main"), "main", command)
    [field] = engine_fields(frozenset())
    assert (field.option, field.variable, field.key) == ("--next-thing", "EVERYCORE_NEXT_THING", "next-thing")
    assert field.setting.kind.from_text("7") == 7
    assert field.default_text == "5"
