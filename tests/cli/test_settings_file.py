"""The settings file: where it is found, errors in it, and what `everycore config` shows."""

import json
import os

import pytest

from everycore.cli.main import main
from everycore.cli.serve import given_by, read_options
from everycore.cli.serve import serve as serve_command
from everycore.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_foreign_settings")


def options(*argv: str, environ: dict[str, str] | None = None):
    with serve_command.make_context("serve", list(argv)) as context:
        return read_options(given_by(context), environ or {})


@pytest.fixture
def write(tmp_path):
    def write_it(text: str, name: str = "everycore.toml") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_it


# Found


def test_a_file_says_it_all(write):
    common = 'app = "shop:app"\nworkers = 3\nbind = [":80"]\ngrace = 5'
    write(f'{common}\n[serve]\nlog-level = "debug"\n[run]\ngrace = 1')
    found = options()
    assert (found.job.app, found.job.binds, found.job.grace) == ("shop:app", ["0.0.0.0:80"], 5.0)
    assert (found.workers.count, found.workers.reason) == (3, "everycore.toml: workers")
    assert found.job.log_level == "debug"


def test_the_table_of_a_project(write):
    write("[project]\nname = 'shop'\n[tool.everycore]\nworkers = 3", "pyproject.toml")
    assert options("main:app").workers.reason == "pyproject.toml [tool.everycore]: workers"


def test_a_project_without_a_table_does_not_count_as_a_file(write):
    write("[project]\nname = 'shop'", "pyproject.toml")
    assert options("main:app").values.file is None


def test_everycores_own_file_goes_before_that_of_the_project(write):
    project = write("[tool.everycore]\nworkers = 3", "pyproject.toml")
    own = write("workers = 4")
    found = options("main:app")
    assert found.workers.count == 4
    assert found.values.ignored == ["everycore.toml is read, but [tool.everycore] in pyproject.toml is not"]
    for named in (project, own):
        assert options("main:app", "--config", named).values.ignored == []


def test_a_file_that_is_named(write):
    write("workers = 4")
    other = write("workers = 5", "other.toml")
    assert options("main:app", "--config", other).workers.count == 5
    assert options("main:app", "-c", "other.toml").workers.count == 5
    assert options("main:app", environ={"EVERYCORE_CONFIG": other}).workers.count == 5


def test_an_option_switches_the_access_log_of_a_file_off(write):
    write("access-logfile = 'x'")
    assert options("main:app").job.access_log
    assert not options("main:app", "--no-access-log").job.access_log


def test_an_option_of_the_engine_may_stand_there(write):
    write("timeout-keep-alive = 7\nheader = 'a: b'")
    assert options("main:app").job.engine == {"timeout_keep_alive": 7, "headers": ("a: b",)}


# Wrong


@pytest.mark.parametrize(
    "option", ["config", "env-file", "log-config", "ssl-certfile", "access-logfile", "log-file"]
)
def test_a_fifo_does_not_block(option, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["serve", f"--{option}", "pipe", "main:app"]) == 2
    assert f"--{option}: cannot " in capsys.readouterr().err


def test_an_access_log_may_be_a_fifo_that_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert options("main:app", "--access-logfile", "pipe").job.access_logfile == "pipe"
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"workers = {'9' * 5000}", "cannot be read: Exceeds the limit"),
        ("workers = " + "[" * 50_000, "cannot be read: its values are nested too deeply"),
        ("#" * (1 << 20) + "\n", "has more than 1048576 bytes"),
    ],
    ids=["digits", "nested", "long"],
)
def test_a_file_that_no_parser_takes(text, problem, write, capsys):
    write(text)
    assert main(["serve", "main:app"]) == 2
    assert f"--config: 'everycore.toml' {problem}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["everycore.toml", "pyproject.toml"])
def test_a_link_that_leads_nowhere_is_not_passed_over(name, tmp_path, capsys):
    (tmp_path / name).symlink_to("gone")
    assert main(["config", "--check", "main:app"]) == 2
    assert f"--config: cannot read {name!r}: no such file" in capsys.readouterr().err


def test_what_is_wrong_has_the_spelling_that_was_typed(capsys):
    assert main(["serve", "-b", "[::1", "main:app"]) == 2
    assert capsys.readouterr().err.startswith("everycore: -b: must be [V6]:PORT")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workrs = 1", "workrs (from everycore.toml): there is no such setting; did you mean 'workers'?"),
        (
            "[serve]\nbnd = 1",
            "serve.bnd (from everycore.toml): there is no such setting; did you mean 'bind'?",
        ),
        ("timeout-keep-alvie = 1", "did you mean 'timeout-keep-alive'?"),
        ("graceful-timeout = 1", "there is no such setting; the key is 'grace'"),
        ("workers = 'x'", "--workers (from everycore.toml: workers): must be 'auto' or a whole number"),
        (
            "timeout-keep-alive = 'x'",
            "--timeout-keep-alive (from everycore.toml: timeout-keep-alive): must be",
        ),
        ("timeout-keep-alive = 2.5", "must be a whole number, not 2.5"),
        ("server-header = 1", "must be true or false, not 1"),
        ("header = 'x'", "must be NAME:VALUE, not 'x'"),
        ("workers = ", "--config: 'everycore.toml' is not TOML: "),
        ("app = 'main'", "APP (from everycore.toml: app): must be MODULE:ATTRIBUTE"),
        ("ssl-keyfile = 'no'", "--ssl-keyfile (from everycore.toml: ssl-keyfile): cannot read 'no'"),
        ("log-config = 'no'", "--log-config (from everycore.toml: log-config): cannot read 'no'"),
        (
            "socket-mode = 0o600",
            "--socket-mode (from everycore.toml: socket-mode): applies to unix sockets only",
        ),
        ("bind = '[::1'", "--bind (from everycore.toml: bind): must be [V6]:PORT"),
        ("host = 'a:b'\nport = 1", "--host (from everycore.toml: host): must be [V6]:PORT"),
        (
            "app = 'main:app'\napp-dir = 'no'",
            "--app-dir (from everycore.toml: app-dir): there is no folder 'no'",
        ),
        ("chdir = 'no'", "--chdir (from everycore.toml: chdir): there is no folder 'no'"),
        ("pid = 'no/pid'", "--pid (from everycore.toml: pid): cannot write"),
        ("log-file = 'no/x'", "--log-file (from everycore.toml: log-file): cannot write 'no/x': there is no"),
        ("log-file = '.'", "--log-file (from everycore.toml: log-file): cannot write '.': is a directory"),
        ("log-format = 'xml'", "--log-format (from everycore.toml: log-format): must be one of text, json"),
        ("access-logfile = 'no/x'", "--access-logfile (from everycore.toml: access-logfile): cannot write"),
        ("backlog = 5000000000", "--backlog (from everycore.toml: backlog): must be a whole number from 1"),
        ("workers = 5000000000", "--workers (from everycore.toml: workers): must be 'auto' or a whole"),
        ("ssl-certfile = '\\u0000'".replace("'", '"'), "must be one line of text"),
        ("ssl-ca-certs = 'everycore.toml'", "ssl-ca-certs): needs the certificate too: --ssl-certfile"),
        ("ssl-cert-reqs = 2", "ssl-cert-reqs): needs the certificate too: --ssl-certfile"),
        ("ssl-keyfile-password = 12345", "ssl-keyfile-password): is not valid; it must be one line of text"),
        ("limit-concurrency = -1", "must be from 0 to 2147483647, not -1"),
        ("ws-ping-interval = nan", "must be from 0 to 2147483647, not nan"),
        ('header = "a: b\\nc: d"', "must be one line of text"),
        ('header = "a: \u20ac"', "must be Latin-1 text"),
        ("'' = 1", "'' (from everycore.toml): there is no such setting"),
        (
            "access-log = false\naccess-logfile = 'x'",
            "access-logfile: contradicts everycore.toml: access-log",
        ),
        ("bind = 'a:1'\nport = 1", "everycore.toml: bind: contradicts everycore.toml: port"),
    ],
)
def test_wrong_file(text, sentence, write, capsys):
    write(text)
    assert main(["serve", *([] if "app" in text else ["main:app"])]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert sentence in printed[0]
    assert "12345" not in printed[0]  # it is a secret
    assert printed[1:] == ["Try 'everycore serve --help'."]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("no.toml", None, "cannot read 'no.toml': no such file or directory"),
        ("gunicorn.conf.py", "", "reads TOML; write the settings of 'gunicorn.conf.py' into everycore.toml"),
        ("ecosystem.config.js", "", "reads TOML; write the settings of 'ecosystem.config.js' into"),
        ("pyproject.toml", "[tool.x]", "there is no [tool.everycore] in 'pyproject.toml'"),
        ("bytes.toml", "\udcff", "is not UTF-8"),
    ],
)
def test_wrong_file_that_is_named(name, text, sentence, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(os.fsencode(text))
    with pytest.raises(ConfigurationError) as caught:
        options("main:app", "--config", name)
    assert sentence in str(caught.value)
    with pytest.raises(ConfigurationError, match="EVERYCORE_CONFIG"):
        options("main:app", environ={"EVERYCORE_CONFIG": name})


def test_a_key_of_the_engine_is_not_an_error_for_run(write, capsys):
    write("timeout-keep-alive = 7\ngrace = 2")
    assert main(["config", "--json", "run"]) == 0
    assert json.loads(capsys.readouterr().out)["grace"] == {"value": 2.0, "source": "everycore.toml: grace"}


def test_an_unknown_variable_is_reported():
    found = options("main:app", environ={"EVERYCORE_WORKRES": "3", "EVERYCORE_ROOT_PATH": "/x"})
    assert found.values.ignored == [
        "the variable EVERYCORE_WORKRES is not known, and ignored; did you mean 'EVERYCORE_WORKERS'?"
    ]
    assert found.job.engine == {"root_path": "/x"}


# Shown


def shown(*argv: str, capsys) -> dict[str, dict[str, object]]:
    assert main(["config", "--json", *argv]) == 0
    found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_config_shows_values_and_sources(write, monkeypatch, capsys):
    write("grace = 5")
    monkeypatch.setenv("EVERYCORE_SURGE", "2")
    found = shown("serve", "-w", "3", "main:app", capsys=capsys)
    assert found["workers"] == {"value": 3, "source": "-w"}
    assert found["surge"] == {"value": 2, "source": "EVERYCORE_SURGE"}
    assert found["grace"] == {"value": 5.0, "source": "everycore.toml: grace"}
    assert found["app"] == {"value": "main:app", "source": "APP"}
    assert found["stop-delay"] == {"value": 0.0, "source": "default"}
    assert "ws-max-size" not in found
    assert "ws-max-size" in shown("--all", "serve", capsys=capsys)


def test_config_is_a_table_for_people(write, capsys):
    write("grace = 5")
    assert main(["config"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["grace", "5", "everycore.toml:", "grace"] in lines
    assert ["workers", "auto", "default"] in lines


@pytest.mark.parametrize(
    "words",
    [
        "--json serve --umask 27 main:app",
        "serve --json --umask 27 main:app",
        "--umask 27 --json main:app",
        "serve --umask 27 main:app --json",
        "run --umask 27 --json",
    ],
)
def test_the_switches_of_config_stand_anywhere(words, capsys):
    assert main(["config", *words.split()]) == 0
    assert json.loads(capsys.readouterr().out)["umask"] == {"value": 0o27, "source": "--umask"}


def test_values_and_arguments_of_a_program_are_not_read_as_switches_of_config(capsys):
    assert main(["config", "serve", "--name", "--json", "main:app"]) == 0
    assert main(["config", "run", "program.py", "--json"]) == 0
    assert not capsys.readouterr().out.startswith("{")


def test_config_shows_permissions_in_octal(capsys):
    assert main(["config", "--umask", "27", "--bind", "unix:x", "--socket-mode", "660"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["umask", "0o027", "--umask"] in lines
    assert ["socket-mode", "0o660", "--socket-mode"] in lines


@pytest.mark.parametrize(
    ("words", "environ", "source"),
    [
        (["--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8"], {}, "--forwarded-allow-ips"),
        (
            [],
            {"EVERYCORE_FORWARDED_ALLOW_IPS": "10.0.0.1"},
            "EVERYCORE_FORWARDED_ALLOW_IPS",
        ),
        ([], {"FORWARDED_ALLOW_IPS": "10.0.0.1"}, "the variable FORWARDED_ALLOW_IPS"),
        (["--forwarded-allow-ips", "*"], {"FORWARDED_ALLOW_IPS": "10.0.0.1"}, None),
        (["--no-proxy-headers"], {"FORWARDED_ALLOW_IPS": "10.0.0.1"}, None),
        ([], {}, None),
    ],
)
def test_a_proxy_on_a_unix_socket_that_is_not_trusted_is_told(words, environ, source):
    ignored = options("main:app", *words, "-b", "unix:x", "-b", ":81", environ=environ).values.ignored
    assert options("main:app", *words, "-b", ":81", environ=environ).values.ignored == []
    said = (
        f"{source} does not name the proxy that connects by unix:x, which has no address:"
        " its X-Forwarded headers are ignored; '*' trusts it"
    )
    assert ignored == ([] if source is None else [said])


def test_everycores_variables_in_the_file_of_the_application_are_reported(tmp_path):
    """The workers read it, after their number is decided."""
    (tmp_path / "its.env").write_text(
        "A=1\nexport WEB_CONCURRENCY=4\n#EVERYCORE_BIND=:1\nEVERYCORE_GRACE = 3\n"
    )
    ignored = options("main:app", "--env-file", str(tmp_path / "its.env"), environ={}).values.ignored
    assert [line.split()[0] for line in ignored] == ["WEB_CONCURRENCY", "EVERYCORE_GRACE"]
    assert "reaches the application only" in ignored[0]


def test_the_variables_of_another_server_are_told():
    environ = {"UVICORN_PORT": "9", "GUNICORN_CMD_ARGS": "-w 9", "UVICORN_HOST": ""}
    assert options("main:app", environ=environ).values.ignored == [
        (
            "the variable GUNICORN_CMD_ARGS is another server's, and ignored;"
            " use everycore.toml, or a variable for each setting"
        ),
        "the variable UVICORN_PORT is another server's, and ignored; use EVERYCORE_PORT",
    ]


def test_config_shows_no_secret(write, capsys):
    write("ssl-keyfile-password = 'hush'\nssl-certfile = 'everycore.toml'")
    assert shown(capsys=capsys)["ssl-keyfile-password"]["value"] == "(not shown)"
    assert main(["config"]) == 0
    assert "hush" not in capsys.readouterr().out


def test_check_is_silent_where_all_is_well(write, capsys):
    write("app = 'main:app'\ngrace = 5")
    assert main(["config", "--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_reports_an_unknown_variable(monkeypatch, capsys):
    monkeypatch.setenv("EVERYCORE_WORKRES", "3")
    monkeypatch.setenv("EVERYCORE_TEST_SOMETHING", "3")
    assert main(["config", "--check"]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "everycore: the variable EVERYCORE_WORKRES is not known, and ignored; did you mean"
    )


def test_check_knows_owners(capsys):
    assert main(["config", "--check", "serve", "--uds", "x", "--socket-owner", "nosuchuser"]) == 2
    assert "--socket-owner: there is no such user or group: 'nosuchuser'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["serve"], ["run"]])
def test_check_says_what_is_wrong(argv, write, capsys):
    write("graze = 5")
    assert main(["config", "--check", *argv]) == 2
    assert "graze (from everycore.toml)" in capsys.readouterr().err


def test_schema_has_the_keys_of_both_commands_and_of_the_engine(capsys):
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    top, serve, run = schema, schema["properties"]["serve"], schema["properties"]["run"]
    assert (
        top["additionalProperties"] is serve["additionalProperties"] is run["additionalProperties"] is False
    )
    assert top["properties"]["grace"]["type"] == "number"
    assert top["properties"]["ws-max-size"]["type"] == "integer"
    assert "bind" in serve["properties"]
    assert "bind" not in run["properties"]
    assert {"stop-delay", "stop_delay"} <= set(run["properties"])


# Secrets


def test_a_password_is_on_no_command_line(write, tmp_path):
    for name in ("key", "cert"):
        (tmp_path / name).write_text("")
    found = options(
        "main:app", "--ssl-keyfile", "key", "--ssl-certfile", "cert", "--keyfile-password", "hush"
    )
    assert "hush" not in found.job.text()
    assert found.values.engine(secret=True) == {"ssl_keyfile_password": "hush"}
