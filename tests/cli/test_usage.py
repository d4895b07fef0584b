"""The command line in this process: options, sources, and every wrong input, before anything is started."""

import os
import subprocess
import sys

import pytest

from everycore.cli.main import main
from everycore.cli.serve import given_by, read_options
from everycore.cli.serve import serve as serve_command
from everycore.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_foreign_settings")


def options(*argv: str, environ: dict[str, str] | None = None):
    """What `everycore serve *argv` would run with."""
    with serve_command.make_context("serve", list(argv)) as context:
        return read_options(given_by(context), environ or {})


# Valid input


def test_defaults(monkeypatch):
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1")
    found = options("main:app")
    assert found.job.binds == ["127.0.0.1:8000"]
    assert found.job.grace == 30.0
    assert found.job.app_dir == os.getcwd()
    assert (found.workers.count, found.workers.reason) == (1, "auto: PYTHON_CPU_COUNT")
    assert found.name == "main:app"
    assert found.settings.boot_timeout == 60.0


def test_options_before_and_after_the_application():
    assert options("--workers", "3", "main:app", "--grace", "5").job.grace == 5.0


def test_several_binds():
    found = options("main:app", "--bind", "[::1]:80", "--bind", "unix:/tmp/x", "--bind", "fd://3")
    assert found.job.binds == ["[::1]:80", "unix:/tmp/x", "fd://3"]


def test_grace_under_kubernetes():
    assert options("main:app", environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).job.grace == 25.0


def test_workers_sources():
    both = {"EVERYCORE_WORKERS": "3", "WEB_CONCURRENCY": "4"}
    assert options("main:app", "--workers", "2", environ=both).workers.count == 2
    assert options("main:app", environ=both).workers.count == 3
    assert options("main:app", environ={"WEB_CONCURRENCY": "4"}).workers.reason == "WEB_CONCURRENCY"


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("EVERYCORE_GRACE", "7", lambda found: found.job.grace == 7),
        ("EVERYCORE_POLICY", "round_robin", lambda found: found.settings.policy == "round_robin"),
        ("EVERYCORE_POLICY", "sticky", lambda found: found.settings.policy == "sticky"),
        (
            "EVERYCORE_TRUST_PROXY_PROTOCOL",
            "10.0.0.0/8, unix",
            lambda found: (
                found.settings.trust_proxy_protocol == ("10.0.0.0/8", "unix") and found.job.loop == "asyncio"
            ),
        ),
        ("EVERYCORE_LOOP", "asyncio", lambda found: found.job.loop == "asyncio"),
        ("EVERYCORE_LOG_LEVEL", "debug", lambda found: found.job.log_level == "debug"),
        ("EVERYCORE_INTERFACE", "wsgi", lambda found: found.job.interface == "wsgi"),
        ("EVERYCORE_BOOT_TIMEOUT", "9", lambda found: found.settings.boot_timeout == 9),
        ("EVERYCORE_NAME", "shop", lambda found: found.name == "shop"),
    ],
)
def test_options_from_variables(variable, text, read):
    assert read(options("main:app", environ={variable: text}))


# Refused input: status 2 and one sentence, and the process stays alive to call `main` again

BAD = [
    (["main"], "MODULE:ATTRIBUTE"),
    (["main.py:app"], "main:app"),
    (["main:app", "--workers", "0"], "'0'"),
    (["main:app", "--workers", "-1"], "'-1'"),
    (["main:app", "--workers", "x"], "'x'"),
    (["main:app", "--bind", "[::1"], "[::1"),
    (["main:app", "--bind", "127.0.0.1:65536"], "65536"),
    (["main:app", "--bind", ""], "must be an address, such as 127.0.0.1:8000 or unix:PATH, not ''"),
    (["main:app", "--bind", "127.0.0.1:80", "--bind", "127.0.0.1:80"], "twice"),
    (["main:app", "--grace", "nan"], "nan"),
    (["main:app", "--grace", "inf"], "inf"),
    (["main:app", "--grace", "-1"], "-1"),
    (["main:app", "--boot-timeout", "0"], "0.1"),
    (["main:app", "--policy", "best"], "round_robin"),
    (["main:app", "--trust-proxy-protocol", "10.1.2.3/8"], "its network is 10.0.0.0/8"),
    (["main:app", "--trust-proxy-protocol", "*", "--policy", "shared"], "round_robin or sticky, not shared"),
    (["main:app", "--trust-proxy-protocol", "*", "--loop", "uvloop"], "--loop asyncio"),
    (["main:app", "--loop", "best"], "auto, asyncio"),
    (["main:app", "--log-level", "loud"], "critical, error, warning, info, debug, trace"),
    (["main:app", "--interface", "cgi"], "auto, asgi, wsgi, asgi2, asgi3"),
    (["main:app", "--app-dir", "/no/such/folder"], "/no/such/folder"),
    (["main:app", "--name", "a\nb"], "printable"),
    (["main:app", "--nosuch"], "--nosuch"),
    (["main:app", "other:app"], "other:app"),
    (["main:app", "--workers"], "--workers"),
    ([], "APP"),
]


@pytest.mark.parametrize(
    ("argv", "problem"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_usage(argv, problem, capsys):
    assert main(["serve", *argv]) == 2
    printed = capsys.readouterr()
    sentence, hint, *rest = printed.err.splitlines()
    assert sentence.startswith("everycore: ")
    assert problem in sentence
    assert hint == "Try 'everycore serve --help'."
    assert (rest, printed.out) == ([], "")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("EVERYCORE_WORKERS", "many"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "x"),
        ("EVERYCORE_POLICY", "best"),
        ("EVERYCORE_GRACE", "nan"),
        ("PYTHON_CPU_COUNT", "0"),
    ],
)
def test_wrong_variable_is_named(variable, text, monkeypatch, capsys):
    monkeypatch.setenv(variable, text)
    assert main(["serve", "main:app"]) == 2
    assert f"(from {variable})" in capsys.readouterr().err


def test_variable_that_is_not_asked_for_may_be_wrong():
    assert options("main:app", "--workers", "1", environ={"WEB_CONCURRENCY": "x"}).workers.count == 1
    with pytest.raises(ConfigurationError):
        options("main:app", environ={"WEB_CONCURRENCY": "x"})


def test_unknown_command(capsys):
    assert main(["srve"]) == 2
    assert "srve" in capsys.readouterr().err


def test_engine_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "main:app"]) == 2
    assert "pip install 'everycore[standard]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        ("hypercorn", [], "--engine hypercorn: needs hypercorn: pip install 'everycore[hypercorn]'"),
        (
            "aioquic",
            ["--quic-bind", ":443", "--workers", "1", "--surge", "0", "--ssl-certfile", "/dev/null"],
            "--quic-bind: needs aioquic: pip install 'everycore[h3]'",
        ),
    ],
)
def test_another_engine_is_missing(module, options, says, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", "--engine", "hypercorn", *options, "main:app"]) == 2
    assert f"everycore: {says}\n" in capsys.readouterr().err


QUIC = ["--engine", "hypercorn", "--quic-bind", ":443"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "granian"], "--engine: does not support granian, whose classes listen by themselves"),
        (["--engine", "hypercorn", "--ws-max-queue", "3"], "--ws-max-queue: hypercorn has no such option"),
        (["--read-timeout", "3"], "--read-timeout: uvicorn has no such option; --engine hypercorn has it"),
        (QUIC, "--quic-bind: needs a certificate too"),
        ([*QUIC, "--ssl-certfile", "/dev/null"], "--quic-bind: needs --workers 1: the kernel"),
        ([*QUIC, "--ssl-certfile", "/dev/null", "-w", "1"], "--quic-bind: needs --surge 0: during a reload"),
    ],
)
def test_what_an_engine_has_not(words, says, capsys):
    assert main(["serve", *words, "main:app"]) == 2
    assert capsys.readouterr().err.startswith(f"everycore: {says}")


@pytest.mark.parametrize("command", ["serve", "run"])
def test_other_systems_have_one_process(command, monkeypatch, capsys, tmp_path):
    """In the folder, with the variables and the umask of the workers."""

    def execv(path, argv):
        mask = os.umask(0)
        os.umask(mask)
        raise SystemExit(f"{argv[0]} {' '.join(argv[1:])} | {os.environ['X']} {os.getcwd()} {mask:o}")

    (tmp_path / "there").mkdir()
    (tmp_path / "x.py").write_text("")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("X", "old")
    before = os.umask(0o22)
    try:
        what = "main:app" if command == "serve" else str(tmp_path / "x.py")
        words = [command, "--env", "X=new", "--chdir", "there", "--umask", "027", what]
        ran = r"-P -m everycore\.servers .*" if command == "serve" else r"/.*x\.py"
        with pytest.raises(SystemExit, match=rf"{ran} \| new .*/there 27$"):
            main(words)
    finally:
        os.umask(before)
    doing = "serving" if command == "serve" else "running"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"everycore: a cluster needs Linux; {doing} in one process on darwin"
    )


# Output on request


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["serve", "--help"], ["serve", "-h"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "Usage: everycore" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 110
    assert printed.err == ""


def test_without_arguments_it_prints_its_whole_usage(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert main(["--help"]) == 0
    assert (out, err) == (capsys.readouterr().out, "")
    assert "Serve an ASGI or WSGI application." in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("everycore 0.")


#: What a primary has no use for. Each costs memory for as long as the service runs.
NOT_IN_A_PRIMARY = {
    "bz2", "csv", "email", "hashlib", "http", "importlib.metadata", "json", "logging.handlers", "lzma",
    "multiprocessing", "pathlib", "pickle", "queue", "random", "shutil", "ssl", "tempfile", "tomllib",
    "typing_extensions", "urllib", "uvicorn", "uvloop", "zipfile", "everycore.core.sticky",
    "everycore.cli.answers", "everycore.primary.listeners.preambles", "everycore.servers.hypercorn_options",
}  # fmt: skip


def test_light_imports(tmp_path):
    # The library does not load the command line, and a primary not what only workers or some options need.
    source = """
import sys
before = set(sys.modules)  # `site` imports what the environment says
import everycore
print("click" in sys.modules or "asyncio" in sys.modules)
from everycore.__main__ import main
sys.argv[1:] = "serve", "--workers", "0", "main:app"
assert main() == 2
import everycore.ops.service, everycore.primary.mold_line, everycore.primary.steering
print(*set(sys.modules) - before)
import ssl
print(ssl.__name__)
"""
    argv = [sys.executable, "-c", source]
    result = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    early, modules, late = result.stdout.splitlines()
    assert (early, late) == ("False", "ssl")
    argv = [sys.executable, "-c", "import asyncio, click, msgspec, sys; print(*sys.modules)"]
    theirs = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    spared = {"ssl", "typing_extensions"}  # which they import where they can
    assert not NOT_IN_A_PRIMARY & set(modules.split()) - (set(theirs) - spared)


@pytest.mark.parametrize(
    ("words", "imported"),
    [
        (["run", "--workers", "0", "x.py"], "False False False"),
        (["serve", "--workers", "0", "main:app"], "False False False"),
        (["serve", "--root-path", "/x", "--workers", "0", "main:app"], "False True False"),
    ],
)
def test_the_engine_and_toml_are_imported_where_they_are_asked_for(words, imported, tmp_path):
    source = (
        "import sys; from everycore.cli.main import main; assert main(sys.argv[1:]) == 2;"
        "print('tomllib' in sys.modules, 'uvicorn' in sys.modules, 'dotenv' in sys.modules)"
    )
    argv = [sys.executable, "-c", source, *words]
    result = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == imported


def test_help_into_a_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "everycore", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "number", "text"),
    [
        ("RLIMIT_FSIZE", 0, "[Errno 27] File too large (ulimit -f)"),
        ("RLIMIT_NOFILE", 8, "[Errno 24] Too many open files (ulimit -n): '/dev/null'"),
    ],
)
def test_a_limit_that_is_too_low_is_one_sentence_that_names_it(limit, number, text, tmp_path):
    (tmp_path / "main.py").touch()
    lower = f"resource.setrlimit(resource.{limit}, ({number}, {number})); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-P", "-m", "everycore", "serve", "--log-level", "error", "main:app"]
    done = subprocess.run(
        [sys.executable, "-c", "import os, resource, sys; " + lower, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"everycore: the system refuses what is needed here: {text}\n"


def test_no_memory_is_one_sentence(monkeypatch, capsys):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("everycore.cli.main.everycore.main", exhausted)
    assert main(["serve", "main:app"]) == 2
    assert capsys.readouterr().err.startswith(
        "everycore: the system refuses what is needed here: [Errno 12] Cannot allocate memory (ulimit -v"
    )


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (
            ["serve", "--app-dir", "SECRET/app", "main:app"],
            "--app-dir: uid {} has no permission to reach the folder",
        ),
        (["run", "SECRET/main.py"], "run: uid {} has no permission to reach the file"),
    ],
)
def test_what_this_user_may_not_reach_is_not_called_missing(argv, what, tmp_path, monkeypatch, capsys):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("everycore.cli.files.os.stat", refuse)  # root may reach everything
    assert main([word.replace("SECRET", str(tmp_path)) for word in argv]) == 2
    assert what.format(os.geteuid()) in capsys.readouterr().err
