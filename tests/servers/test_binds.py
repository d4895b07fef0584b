"""The valid and the malformed values of `--bind`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.errors import ConfigurationError
from everycore.servers.binds import FdBind, TcpBind, UnixBind, parse_bind, parse_binds


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8000", TcpBind("127.0.0.1", 8000)),
        ("localhost:0", TcpBind("localhost", 0)),
        ("Example.ORG:65535", TcpBind("example.org", 65535)),
        ("[::1]:80", TcpBind("::1", 80)),
        ("[::]:80", TcpBind("::", 80)),
        ("[fe80::1%eth0]:80", TcpBind("fe80::1%eth0", 80)),
        ("unix:/run/app.sock", UnixBind("/run/app.sock")),
        ("unix:app.sock", UnixBind("app.sock")),
        ("fd://3", FdBind(3)),
        (":8000", TcpBind("0.0.0.0", 8000)),
        ("80", TcpBind("127.0.0.1", 80)),
        ("0.0.0.0", TcpBind("0.0.0.0", 8000)),
        ("localhost", TcpBind("localhost", 8000)),
        ("[::1]", TcpBind("::1", 8000)),
    ],
)
def test_forms(text, bind):
    assert parse_bind(text) == bind
    assert parse_bind(str(bind)) == bind


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[::1", "IPv6"),
        ("[::1]8000", "HOST:PORT"),
        ("[name]:80", "IPv6"),
        ("[]:80", "IPv6"),
        ("::1:8000", "brackets"),
        ("127.0.0.1:", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("127.0.0.1:-1", "HOST:PORT"),
        ("127.0.0.1:1_0", "HOST:PORT"),
        ("127.0.0.1:65536", "between 0 and 65535, not 65536"),
        ("127.0.0.1:" + "9" * 5000, "HOST:PORT"),
        (":", "HOST:PORT"),
        ("/run/app.sock", "unix:/run/app.sock"),
        ("65536", "between 0 and 65535"),
        ("", "HOST:PORT"),
        ("a\nb:80", "HOST:PORT"),
        ("http://127.0.0.1:80", "HOST:PORT"),
        ("unix:", "path is missing"),
        ("fd://", "fd://"),
        ("fd:3", "fd://"),
        ("fd://-1", "fd://"),
        ("fd://x", "fd://"),
    ],
)
def test_malformed(text, problem):
    with pytest.raises(ConfigurationError, match="--bind") as caught:
        parse_bind(text)
    assert problem in str(caught.value)


@given(st.text())
def test_any_text_is_a_bind_or_a_configuration_error(text):
    try:
        bind = parse_bind(text)
    except ConfigurationError:
        return
    assert parse_bind(str(bind)) == bind


@pytest.mark.parametrize(
    "texts",
    [
        ["127.0.0.1:80", "127.0.0.1:80"],
        ["LOCALHOST:80", "[::1]:80", "localhost:80"],
        ["127.0.0.1:80", "127.0.0.1:080"],
        ["unix:/a", "unix:/a"],
        ["fd://3", "fd://3"],
    ],
)
def test_the_same_twice(texts):
    with pytest.raises(ConfigurationError, match="given twice"):
        parse_binds(texts)


def test_free_ports_are_never_the_same():
    assert len(parse_binds(["127.0.0.1:0", "127.0.0.1:0"])) == 2
