"""`--socket-owner`: which user it names, and who may use it."""

import grp
import os
import pwd

import pytest

from everycore.errors import ConfigurationError
from everycore.ops.ownership import parse_owner

ROOT = pwd.getpwuid(0)
GROUP = grp.getgrgid(0)


@pytest.fixture
def as_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        (ROOT.pw_name, (0, -1)),
        (f"{ROOT.pw_name}:{GROUP.gr_name}", (0, 0)),
        (f":{GROUP.gr_name}", (-1, 0)),
        ("7:8", (7, 8)),
        ("7:", (7, -1)),
    ],
)
def test_forms(text, owner, as_root):
    assert parse_owner(text) == owner


@pytest.mark.parametrize(
    "text", ["", ":", "nosuchuser", "0:nosuchgroup", "²", "٤:0", "0:4294967295", "1" * 30]
)
def test_what_is_none(text, as_root):
    with pytest.raises(ConfigurationError, match="--socket-owner"):
        parse_owner(text)


def test_others_give_nothing_away(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [33])
    assert parse_owner("1000:33") == (1000, 33)
    for text in ("0", ":0", "1000:34"):
        with pytest.raises(ConfigurationError, match="only root can give a socket to"):
            parse_owner(text)
