"""The PROXY protocol, byte for byte, and which proxies are believed."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycore.core.proxies import MOST_HEADER, Header, Proxies, read_header
from everycore.errors import ConfigurationError
from everycore.settings import check_proxies

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def binary(command=0x21, kind=0x11, body=b""):
    return SIGNATURE + struct.pack("!BBH", command, kind, len(body)) + body


V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4711, 80)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack("!HH", 4711, 80)
)
FOUR, SIX = ("192.0.2.7", 4711), ("2001:db8::7", 4711, 0, 0)

GOOD = {
    "line": (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n", FOUR),
    "line of IPv6": (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", SIX),
    "line that says nothing": (b"PROXY UNKNOWN\r\n", None),
    "line that says nothing at length": (b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n", None),
    "longest line": (
        b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n",
        None,
    ),
    "binary": (binary(body=V4), FOUR),
    "binary of IPv6": (binary(kind=0x21, body=V6), SIX),
    "binary with more": (binary(body=V4 + b"\x04\0\x08" + b"x" * 8), FOUR),
    "longest binary": (binary(body=V4 + b"x" * (MOST_HEADER - 16 - len(V4))), FOUR),
    "local": (binary(command=0x20, kind=0), None),
    "local with an address": (binary(command=0x20, body=V4), None),
    "not specified": (binary(kind=0x00, body=b"abc"), None),
    "unix": (binary(kind=0x31, body=b"/" * 216), None),
}

BAD = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "in small letters": b"proxy TCP4 ",
    "an address of the other family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "no address": b"PROXY TCP4 192.0.2.700 10.0.0.1 4711 80\r\n",
    "a zero in front": b"PROXY TCP4 192.0.2.07 10.0.0.1 4711 80\r\n",
    "no other address": b"PROXY TCP4 192.0.2.7 host 4711 80\r\n",
    "no port": b"PROXY TCP4 192.0.2.7 10.0.0.1 x 80\r\n",
    "a large port": b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 80\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 10.0.0.1 1 80\r\n",
    "one word too many": b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80 9\r\n",
    "letters of another script": "PROXY TCP4 192.0.2.7 10.0.0.1 \u0661 80\r\n".encode(),
    "UDP": b"PROXY UDP4 192.0.2.7 10.0.0.1 1 80\r\n",
    "a line without an end": b"PROXY TCP4 " + b"1" * 97,
    "version 3": binary(command=0x31, body=V4),
    "another command": binary(command=0x22, body=V4),
    "datagrams": binary(kind=0x12, body=V4),
    "another family": binary(kind=0x41, body=V4),
    "too short for its addresses": binary(body=V4[:-1]),
    "too long": binary(body=V4 + b"x" * MOST_HEADER),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_ends_where_it_ends(name):
    header, peer = GOOD[name]
    assert read_header(header) == Header(len(header), peer)
    assert read_header(header + b"PROXY") == Header(len(header), peer)


@pytest.mark.parametrize("name", GOOD)
def test_a_part_of_one_is_none_yet(name):
    header, _ = GOOD[name]
    assert all(read_header(header[:size]) is None for size in range(len(header)))


@pytest.mark.parametrize("name", BAD)
def test_malformed_values_are_refused(name):
    with pytest.raises(ValueError, match=r"\w"):
        read_header(BAD[name])


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda rest: SIGNATURE + rest)))
def test_anything_else_is_refused_or_waited_for(data):
    try:
        header = read_header(data)
    except ValueError:
        return
    assert header is None or 0 < header.size <= len(data)


PEERS = [
    (("10.0.0.1", 1), ["10.0.0.1"], True),
    (("10.0.0.1", 1), ["10.0.0.2"], False),
    (("10.9.0.1", 1), ["10.0.0.0/8"], True),
    (("11.9.0.1", 1), ["192.0.2.1", "10.0.0.0/8"], False),
    (("::ffff:10.9.0.1", 1, 0, 0), ["10.0.0.0/8"], True),
    (("fd00::1", 1, 0, 0), ["fd00::/8"], True),
    (("fd00::1", 1, 0, 0), ["10.0.0.0/8"], False),
    (("fe80::1%eth0", 1, 0, 2), ["fe80::/10"], True),
    (("192.0.2.1", 1), ["*"], True),
    (("192.0.2.1", 1), ["unix"], False),
    ("", ["unix"], True),
    ("/run/proxy.sock", ["unix"], True),
    (b"\0proxy", ["*"], True),
    ("", ["127.0.0.1"], False),
]


@pytest.mark.parametrize(("peer", "names", "is_one"), PEERS)
def test_which_peers_are_proxies(peer, names, is_one):
    proxies = Proxies(names)
    assert proxies
    assert [proxies.has(peer), proxies.has(peer)] == [is_one, is_one]


def test_without_a_name_there_is_none():
    assert not Proxies(())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("10.1.2.3/8", "its network is 10.0.0.0/8"),
        ("proxy.example", "'unix' means those on unix sockets"),
        ("", "must be an address"),
        ("10.0.0.1:80", "must be an address"),
    ],
)
def test_a_malformed_name_is_an_error(wrong, why):
    with pytest.raises(ConfigurationError, match=why):
        check_proxies("trust_proxy_protocol", ["127.0.0.1", wrong])


@pytest.mark.parametrize("wrong", ["10.0.0.1", b"10", 5, [5], None])
def test_names_are_a_sequence_of_strings(wrong):
    with pytest.raises(ConfigurationError, match="trust_proxy_protocol"):
        check_proxies("trust_proxy_protocol", wrong)
