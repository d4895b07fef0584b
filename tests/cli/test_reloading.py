"""`--reload` and its details in this process: what is watched, how many workers, wrong values."""

import os
from typing import Any

import pytest

from everycore.cli import run, serve
from everycore.cli.main import main
from everycore.cli.starting import Rereading

pytestmark = pytest.mark.usefixtures("no_foreign_settings")


def options(*argv: str, environ: dict[str, str] | None = None):
    with serve.serve.make_context("serve", [*argv, "main:app"]) as context:
        given = serve.given_by(context)
        return given, serve.read_options(given, environ or {})


def watched(*argv: str, environ: dict[str, str] | None = None):
    given, found = options(*argv, environ=environ)
    return serve.watch_of(given, found, environ or {})


def watched_by_run(*program: str):
    with run.run.make_context("run", ["--reload", *program]) as context:
        given = run.run.given(context)
        return run.watch_of(given, run.read_options(given, list(program), {}), {})


@pytest.fixture(autouse=True)
def folders(tmp_path, no_foreign_settings):
    for name in ("src/shop", "lib", "generated"):
        (tmp_path / name).mkdir(parents=True)


# What is watched


def test_nothing_without_it():
    assert watched() is None
    assert watched("--no-reload") is None


def test_the_folder_that_we_are_in_and_that_of_the_application(tmp_path):
    assert watched("--reload").folders == (str(tmp_path),)
    assert watched("--reload", "--app-dir", "src").folders == (str(tmp_path), f"{tmp_path}/src")
    assert watched("--reload", "--chdir", "src").folders == (f"{tmp_path}/src",)


def test_the_folder_of_a_script(tmp_path):
    assert watched_by_run("src/server.py").folders == (str(tmp_path), f"{tmp_path}/src")
    assert watched_by_run("-m", "http.server").folders == (str(tmp_path),)
    assert watched_by_run("/srv/server.py").folders == (str(tmp_path), "/srv")


def test_files_that_the_service_writes_are_known_by_their_names_in_the_watched_folders(tmp_path):
    (tmp_path / "way").symlink_to("src")
    (tmp_path / "out.log").symlink_to("lib/out.log")
    logs = ["--log-file", "way/app.log", "--access-logfile", "out.log", "-p", "run/pid"]
    (tmp_path / "run").mkdir()
    found = watched("--reload", "--reload-dir", "src", "--reload-dir", "way", "--reload-dir", "lib", *logs)
    names = ("way/app.log", "src/app.log", "lib/out.log", "out.log", "run/pid")
    assert {f"{tmp_path}/{name}" for name in names} <= found.written


def test_folders_that_are_named(tmp_path):
    found = watched("--reload", "--reload-dir", "src", "--reload-dir", f"{tmp_path}/lib/")
    assert found.folders == (f"{tmp_path}/src", f"{tmp_path}/lib")
    assert watched("--reload", environ={"EVERYCORE_RELOAD_DIR": "lib, src"}).folders == (
        f"{tmp_path}/lib", f"{tmp_path}/src",
    )  # fmt: skip


def test_patterns_and_folders_among_them(tmp_path):
    found = watched(
        "--reload",
        *("--reload-include", "*.html", "--reload-include", "./lib"),
        *("--reload-exclude", "generated", "--reload-exclude", "./tests/*"),
    )
    assert found.folders == (f"{tmp_path}/lib",)
    assert (found.includes, found.excludes) == (("*.html",), ("tests/*",))
    assert found.skipped == (f"{tmp_path}/generated",)


def test_files_that_settings_come_from(tmp_path):
    assert watched("--reload").files == {f"{tmp_path}/everycore.toml", f"{tmp_path}/pyproject.toml"}
    (tmp_path / "dev.toml").write_text("reload = true\nenv-file = '.env'")
    (tmp_path / "src" / ".env").touch()
    assert watched("--chdir", "src", "--config", "dev.toml").files == {
        f"{tmp_path}/dev.toml", f"{tmp_path}/src/.env",
    }  # fmt: skip


# How many workers


@pytest.mark.parametrize(
    ("argv", "environ", "count", "reason"),
    [
        (["--reload"], {}, 1, "--reload"),
        (["--reload", "--workers", "3"], {}, 3, "--workers"),
        (
            ["--reload"],
            {"WEB_CONCURRENCY": "3"},
            1,
            "--reload ignores WEB_CONCURRENCY; type --workers for more",
        ),
        ([], {"EVERYCORE_RELOAD": "1", "WEB_CONCURRENCY": "3"}, 3, "WEB_CONCURRENCY"),
        (["--no-reload"], {"EVERYCORE_RELOAD": "1", "WEB_CONCURRENCY": "3"}, 3, "WEB_CONCURRENCY"),
    ],
)
def test_reload_runs_one_worker_unless_more_are_asked_for(argv, environ, count, reason):
    bound = options(*argv, environ=environ)[1].workers
    assert (bound.count, bound.reason) == (count, reason)


def test_long_connections_end_when_the_new_code_is_there():
    assert options()[1].job.spread is None
    assert options("--reload")[1].job.spread == 0.0
    assert options("--reload", "--spread", "3")[1].job.spread == 3.0


# What is wrong


def first_line(capsys) -> str:
    """The first line of the error; the second names the help."""
    complaint, rest = capsys.readouterr().err.split("\n", 1)
    assert rest.startswith("Try 'everycore ")
    return complaint


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--reload-dir", "src"], "--reload-dir: has an effect with --reload only"),
        (["--reload-delay", "1"], "--reload-delay: has an effect with --reload only"),
        (["--reload", "--reload-dir", "nowhere"], "--reload-dir: there is no folder 'nowhere'"),
        (["--reload", "--reload-dir", "main.py"], "--reload-dir: 'main.py' is a file, not a folder"),
        (["--reload", "--reload-delay", "soon"], "--reload-delay: must be a number of seconds, not 'soon'"),
        (["--reload", "--reload-delay", "inf"], "--reload-delay: must be at least 0 seconds"),
        (["--reload", "--reload-dir", ""], "--reload-dir: must be a path"),
        (
            ["--reload", "--reload-include", "../*.html"],
            "--reload-include: must be a folder, or a pattern for files below a watched folder, not",
        ),
        (["--reload", "--reload-exclude", "/x/*.py"], "--reload-exclude: must be a folder, or a pattern"),
        (["--reload", "--reload-exclude", "."], "--reload-exclude: excludes every folder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["serve", "run"])
def test_what_is_wrong_is_told_before_anything_starts(command, argv, says, tmp_path, capsys):
    (tmp_path / "main.py").touch()
    assert main([command, *argv, "main:app" if command == "serve" else "main.py"]) == 2
    complaint = first_line(capsys)
    assert complaint.startswith(f"everycore: {says}")
    if command == "serve":
        assert main(["config", "--check", *argv, "main:app"]) == 2
        assert first_line(capsys) == complaint


def test_a_file_may_say_what_reload_watches(tmp_path, capsys):
    (tmp_path / "everycore.toml").write_text("reload-dir = 'nowhere'")
    assert watched() is None
    assert main(["serve", "--reload", "main:app"]) == 2
    assert first_line(capsys) == (
        "everycore: --reload-dir (from everycore.toml: reload-dir): there is no folder 'nowhere'"
    )


def test_without_watchfiles(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "watchfiles" else name)
    assert main(["serve", "--reload", "main:app"]) == 2
    assert first_line(capsys) == "everycore: --reload: needs watchfiles: pip install 'everycore[standard]'"


def test_on_other_systems(monkeypatch, capsys):
    monkeypatch.setattr("everycore.cli.reloading.is_linux", lambda: False)
    assert main(["run", "--reload", os.__file__]) == 2
    assert first_line(capsys) == "everycore: --reload: needs Linux"


# At HUP


class Commanded:
    """A pool that records its new terms."""

    size = 4

    def __init__(self) -> None:
        self.cluster = self._keeper = self
        self.workers: list[int | None] = []

    def setup_primary(self, **_) -> None:
        pass

    def change_terms(self, *, workers, **_) -> None:
        self.workers.append(workers)

    def reopen_logs(self, **_) -> None:
        pass


@pytest.mark.usefixtures("loggers_as_before")
def test_a_file_that_turns_it_on_or_off_scales_nothing(tmp_path, capsys):
    def read():
        return serve.plan(options("--bind", "x:1")[1])

    (tmp_path / "everycore.toml").write_text("workers = 4")
    rereading = Rereading(read(), read)
    pool: Any = Commanded()
    rereading.pool = pool
    for text in ("reload = true", "reload = true", "workers = 4", "workers = 3"):
        (tmp_path / "everycore.toml").write_text(text)
        rereading()
    assert pool.workers == [None, None, None, 3]
    assert "a reload does not change --reload (everycore.toml: reload)" in capsys.readouterr().err
