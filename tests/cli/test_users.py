"""`--user`, `--group` and `--permit`: impossible values are refused before anything starts."""

import grp
import os
import pwd

import pytest

from everycore.cli.command import SettingsCommand
from everycore.cli.run import plan as plan_of_run
from everycore.cli.run import read_options as read_run
from everycore.cli.run import run
from everycore.cli.serve import given_by, plan, read_options, serve
from everycore.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_foreign_settings")

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(autouse=True)
def as_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)


def worker(*words):
    with serve.make_context("serve", [*words, "main:app"]) as context:
        return plan(read_options(given_by(context), {})).worker


def program(*words):
    with run.make_context("run", [*words, __file__]) as context:
        assert isinstance(context.command, SettingsCommand)
        return plan_of_run(read_run(context.command.given(context), [__file__], {})).worker


def test_without_them_workers_run_as_the_starting_user():
    settings = worker()
    assert (settings.uid, settings.gid, settings.addresses) == (None, None, ())


@pytest.mark.parametrize("who", [["--user", "nobody"], ["-u", str(NOBODY.pw_uid)], ["--uid", "nobody"]])
def test_a_user_has_its_own_group(who):
    settings = worker(*who)
    assert (settings.uid, settings.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_another_group():
    group = grp.getgrgid(0)
    settings = worker("--user", "nobody", "-g", group.gr_name)
    assert (settings.uid, settings.gid) == (NOBODY.pw_uid, 0)
    assert worker("--group", "0").uid is None


@pytest.mark.parametrize(
    ("binds", "addresses"),
    [
        (["--bind", "127.0.0.1:80"], [("127.0.0.1", 80)]),
        (["--bind", ":80"], [("0.0.0.0", 80)]),
        (["--bind", "[::1]:80", "--bind", "fd://7"], [("::1", 80), 7]),
        (["--uds", "x.sock"], ["HERE/x.sock"]),
        (["--uds", "x.sock", "--chdir", "/tmp"], ["/tmp/x.sock"]),
        (["--bind", "unix:/run/x.sock"], ["/run/x.sock"]),
        (["--bind", "no-such-host.invalid:80"], []),
    ],
)
def test_they_may_listen_where_the_service_is_to_listen(binds, addresses):
    found = worker("--user", "nobody", *binds).addresses
    assert [
        what.replace(os.getcwd(), "HERE") if isinstance(what, str) else what for what in found
    ] == addresses


def test_a_name_stands_for_all_its_addresses():
    found = worker("--user", "nobody", "--bind", "localhost:80").addresses
    assert ("127.0.0.1", 80) in found


def test_a_program_may_listen_on_what_is_permitted():
    assert list(program("--user", "nobody").addresses) == []
    assert list(program("--user", "nobody", "--permit", "80", "--permit", "unix:/x").addresses) == [
        ("127.0.0.1", 80),
        "/x",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--user", "no-such-user"], "--user: there is no user 'no-such-user'"),
        (["--user", ""], "--user: there is no user ''"),
        (["--user", str(2**32 - 1)], "--user: there is no user"),
        (["--user", "nobody", "--group", "no-such-group"], "--group: there is no group 'no-such-group'"),
        (
            ["--user", str(2**31 - 7)],
            "--group: user .* is not in the user database, so its group must be",
        ),
    ],
)
def test_what_there_is_not(words, says):
    with pytest.raises(ConfigurationError, match=says):
        worker(*words)


def test_a_permit_without_a_user():
    with pytest.raises(ConfigurationError, match="--permit: has an effect with --user only"):
        program("--permit", "80")


def test_only_root_has_workers_of_others(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: NOBODY.pw_gid)
    assert worker("--user", "nobody").uid is None  # as it is
    with pytest.raises(ConfigurationError, match="--user: only root starts workers as another user"):
        worker("--user", "root")
    with pytest.raises(ConfigurationError, match="--group: only root starts workers as another user"):
        worker("--group", "root")
