"""Completion: what the command offers at each place, and what real shells do with it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from everycore.cli.completion import SCRIPTS
from everycore.cli.main import COMMANDS, main

pytestmark = pytest.mark.usefixtures("no_foreign_settings")

SOURCE = """\
from framework import Framework, Request
from .elsewhere import app as application
DEBUG = True
_private = 1
app = Framework()
typed: object = app
def create_app(): ...
async def plain(scope, receive, send): ...
class Thing: ...
"""


@pytest.fixture
def offered(monkeypatch, capsys, tmp_path):
    """What is offered after a line, by kind and word."""
    (tmp_path / "main.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "no-module.py").touch()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "web.py").write_text("from shop import api, models")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "__init__.py").write_text("app = 1")
    (tmp_path / "empty").mkdir()

    def ask(line, shell="bash", breaks=":="):
        monkeypatch.setenv("_EVERYCORE_COMPLETE", f"{shell}_complete")
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_BREAKS", breaks)
        assert main([]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return [tuple(row.split("\t")[:2]) for row in printed.out.splitlines()]

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("everycore se", "serve"),
        ("everycore st", "status stop stacks"),
        ("everycore serve --surg", "--surge"),
        ("everycore serve --ws-max-s", "--ws-max-size"),
        ("everycore serve --ssl-keyfile x --ws-max-s", "--ws-max-size"),
        ("everycore serve --ssl-keyfile=x --policy sh", "shared"),
        ("everycore serve --graceful", "--graceful-timeout"),
        ("everycore serve --no-factory --policy ", "round_robin shared sticky"),
        ("everycore serve --policy=r", "round_robin"),
        ("everycore serve --loop a", "auto asyncio"),
        ("everycore serve --log-level tr", "trace"),
        ("everycore serve --log-config x.ini --interface asgi", "asgi asgi2 asgi3"),
        ("everycore serve -w ", "auto"),
        ("everycore serve --graceful-timeout 3 --lifespan o", "on off"),
        ("everycore serve --grace ", ""),
        ("everycore serve --ws-per-message-deflate ", "true false"),
        ("everycore serve main:a", "application app"),
        ("everycore serve main:", "application app typed create_app plain"),
        ("everycore serve --factory main:", "application create_app plain"),
        ("everycore serve --app-dir shop web:", "api"),
        ("everycore serve --chdir shop web:", "api"),
        ("everycore serve broken:", ""),
        ("everycore serve nothing:", ""),
        ("everycore serve main:app ", ""),
        ("everycore run --policy s", "shared sticky"),
        ("everycore run --bin", ""),
        ("everycore config ", "serve run"),
        ("everycore config --che", "--check"),
        ("everycore config --check serve --surg", "--surge"),
        ("everycore config run --surg", "--surge"),
        ("everycore completion ", "bash zsh fish"),
        ("everycore start ", ""),
        ("everycore serve --factory=x --policy=sh", "shared"),
        ("everycore", ""),
        ("", " ".join(COMMANDS)),
        ('everycore serve "main:cre', "create_app"),
    ],
)
def test_words(offered, line, words):
    if not words and line != "everycore":
        assert offered(line) == []
    else:
        assert [word for kind, word in offered(line)] == (words.split() or list(COMMANDS))


@pytest.mark.parametrize(
    ("line", "items"),
    [
        ("everycore serve ", "made. made: main: shop. broken:"),
        ("everycore serve m", "made. made: main:"),
        ("everycore serve --nonsense m", "made. made: main:"),
        ("everycore serve shop.w", "shop.web:"),
        ("everycore serve nothing.w", ""),
        ("everycore run -m shop.", "plain/shop.web"),
        ("everycore run -m mad", "plain/made made."),
        ("everycore run -m wsgir", "plain/wsgiref wsgiref."),
    ],
)
def test_a_word_that_goes_on_is_open(offered, line, items):
    wanted = {tuple(item.split("/")) if "/" in item else ("open", item) for item in items.split()}
    assert set(offered(line)) == wanted


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("everycore serve --config ", "file"),
        ("everycore serve -c e", "file"),
        ("everycore serve --log-config=", "file"),
        ("everycore serve --ssl-keyfile ", "file"),
        ("everycore serve --certfile ", "file"),
        ("everycore serve --env-file ", "file"),
        ("everycore serve --chdir ", "dir"),
        ("everycore serve --app-dir=sh", "dir"),
        ("everycore run ", "file"),
        ("everycore run server.py ", "file"),
        ("everycore run server.py --policy ", "file"),
        ("everycore run -m http.server ", "file"),
    ],
)
def test_files_are_the_shells_affair(offered, line, kind):
    assert offered(line) == [(kind, "")]


@pytest.mark.parametrize(
    ("breaks", "line", "word"),
    [
        (":=", "everycore serve --policy=sh", "shared"),
        (":", "everycore serve --policy=sh", "--policy=shared"),
        (":=", "everycore serve main:cr", "create_app"),
        ("=", "everycore serve main:cr", "main:create_app"),
    ],
)
def test_bash_replaces_what_stands_behind_the_last_of_its_breaks(offered, breaks, line, word):
    assert offered(line, breaks=breaks) == [("plain", word)]


def test_other_shells_have_whole_words(offered):
    assert offered("everycore serve main:cr", "zsh") == [("plain", "main:create_app")]
    assert offered("everycore serve main:cr", "fish") == [("plain", "main:create_app")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell, capsys, monkeypatch):
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == SCRIPTS[shell]
    monkeypatch.setenv("_EVERYCORE_COMPLETE", f"{shell}_source")  # as click's own documentation has it
    assert main([]) == 0
    assert capsys.readouterr().out == printed


def test_another_shell_is_told_which_there_are(capsys, monkeypatch):
    assert main(["completion"]) == 2
    assert capsys.readouterr().err.startswith("everycore: completion: needs the shell: bash, zsh, fish\n")
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
    monkeypatch.setenv("_EVERYCORE_COMPLETE", "tcsh_complete")
    assert main([]) == 2
    assert "_EVERYCORE_COMPLETE: must be one of bash_complete, " in capsys.readouterr().err


#: How each shell is started, and reads a script.
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
READ = dict.fromkeys(SHELLS, "source ./script")
READ["zsh"] = f"autoload -U compinit; compinit -u -D; {READ['zsh']}"
#: Completes like the real command, and prints anything else that is typed to it.
STAND_IN = """#!/bin/sh
if [ -n "$_EVERYCORE_COMPLETE" ]; then exec {python} -m everycore "$@"; fi
printf 'typed:'; printf ' <%s>' "$@"; echo
"""
AT_A_TERMINAL = "import pty, sys; pty.spawn(sys.argv[1:])"


def surroundings(shell: str, tmp_path: Path) -> dict[str, str]:
    """Make the files that the shell finds. Returns its environment."""
    if shutil.which(shell) is None:
        pytest.fail(f"{shell} is missing: `make deps` installs it", pytrace=False)
    stand_in = tmp_path / "bin" / "everycore"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    (tmp_path / "script").write_text(SCRIPTS[shell])
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "main.py").write_text(SOURCE)
    return {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


@pytest.mark.slow
def test_fish(start_command, tmp_path):
    """fish reports what it would offer. At a terminal, fish 4 waits for answers that this one lacks."""
    lines = [
        "everycore serve --chdir a",
        "everycore serve --loop=uv",
        "everycore serve --chdir 'a folder' main:cr",
    ]
    asks = "".join(f"complete --do-complete {line!r};" for line in lines)
    env = surroundings("fish", tmp_path)
    program = start_command(["fish", "--no-config", "-c", f"source ./script; {asks}"], env=env)
    assert program.wait() == 0
    offered = [line.partition("\t")[0] for line in program.stdout.splitlines()]
    assert offered == ["a folder/", "--loop=uvloop", "main:create_app"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell(shell, start_command, tmp_path):
    env = surroundings(shell, tmp_path)
    program = start_command([sys.executable, "-c", AT_A_TERMINAL, *SHELLS[shell]], env=env)
    program.write(f"{READ[shell]}; printf '%s\\n' re''ady\n")
    program.expect("^ready")
    program.write("everycore serve --chdir a\t --loop=uv\tma\tcr\t\n")
    program.expect(r"^typed: <serve> <--chdir> <a folder/?> <--loop=uvloop> <main:create_app>")
    program.write("exit\n")
    assert program.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "is_imported"), [("--policy sh", False), ("main:", False), ("--ws-max-s", True)]
)
def test_the_engine_is_imported_for_its_options_alone(start_program, tmp_path, line, is_imported):
    source = """
        import sys
        from everycore.cli.main import COMMANDS, main
        status = main([])
        print("uvicorn" in sys.modules)
    """
    env = {"_EVERYCORE_COMPLETE": "bash_complete", "COMP_LINE": f"everycore serve {line}"}
    program = start_program(source, env=env)
    program.expect(f"^{is_imported}$")
    assert program.wait() == 0
