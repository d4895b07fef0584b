"""Where to listen, by the five settings that say so."""

import pytest

from everycore.config.addresses import binds_of
from everycore.config.layers import File, resolve
from everycore.config.setting import fields_of
from everycore.config.tree import ServeSettings
from everycore.errors import ConfigurationError


def binds(options=None, *, environ=None, table=None, activated=()) -> list[str]:
    words = {name: (value, f"--{name}") for name, value in (options or {}).items()}
    file = None if table is None else File("everycore.toml", table)
    return binds_of(resolve(fields_of(ServeSettings), words, environ or {}, file, "serve"), activated)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ["127.0.0.1:8000"]),
        ({"options": {"bind": ["a:1", "b:2"]}}, ["a:1", "b:2"]),
        ({"options": {"host": "0.0.0.0"}}, ["0.0.0.0:8000"]),
        ({"options": {"host": "::1", "port": "80"}}, ["[::1]:80"]),
        ({"options": {"host": "[::1]"}}, ["[::1]:8000"]),
        ({"options": {"port": "80"}}, ["127.0.0.1:80"]),
        ({"options": {"uds": "/run/x"}}, ["unix:/run/x"]),
        ({"options": {"fd": "3"}}, ["fd://3"]),
        ({"environ": {"EVERYCORE_BIND": ":80,unix:x"}}, [":80", "unix:x"]),
        ({"environ": {"EVERYCORE_HOST": "h", "EVERYCORE_PORT": "1"}}, ["h:1"]),
        # A platform sets PORT from outside: every other setting takes precedence.
        ({"environ": {"PORT": "5000"}}, ["0.0.0.0:5000"]),
        ({"environ": {"PORT": "5000"}, "options": {"host": "127.0.0.1"}}, ["127.0.0.1:5000"]),
        ({"environ": {"PORT": "5000"}, "options": {"port": "80"}}, ["127.0.0.1:80"]),
        ({"environ": {"PORT": "5000"}, "table": {"bind": ":80"}}, [":80"]),
        ({"environ": {"PORT": "5000"}, "activated": ["fd://3"]}, ["fd://3"]),
        ({"activated": ["fd://3"], "options": {"port": "80"}}, ["127.0.0.1:80"]),
        # A higher layer wins whole; host and port are one way, and meet across layers.
        ({"options": {"port": "80"}, "table": {"bind": "unix:x"}}, ["127.0.0.1:80"]),
        ({"options": {"port": "80"}, "table": {"host": "0.0.0.0"}}, ["0.0.0.0:80"]),
        ({"environ": {"EVERYCORE_UDS": "x"}, "table": {"host": "h"}}, ["unix:x"]),
    ],
)
def test_where_to_listen(given, wanted):
    given = dict(given)
    assert binds(given.pop("options", None), **given) == wanted


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"options": {"bind": ["a:1"], "host": "b"}}, ("--bind", "--host")),
        ({"options": {"uds": "x", "port": "1"}}, ("--uds", "--port")),
        ({"options": {"uds": "x", "fd": "3"}}, ("--uds", "--fd")),
        (
            {"table": {"bind": "a:1", "serve": {"port": 1}}},
            ("everycore.toml: bind", "everycore.toml: serve.port"),
        ),
        ({"environ": {"EVERYCORE_BIND": "a:1", "EVERYCORE_FD": "1"}}, ("EVERYCORE_BIND", "EVERYCORE_FD")),
    ],
)
def test_two_ways_in_one_layer_contradict_each_other(given, names):
    given = dict(given)
    with pytest.raises(ConfigurationError) as caught:
        binds(given.pop("options", None), **given)
    assert all(name in str(caught.value) for name in names)
