"""One canonical form for what a worker of another user may listen on."""

import socket

import pytest

from everycore.core.permits import INHERITED, may_read, may_set, permit_of


@pytest.mark.parametrize(
    ("address", "permit"),
    [
        (["127.0.0.1", 80], ("127.0.0.1", 80)),
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
        (["0:0::1", 80, 0, 0], ("::1", 80)),
        ("/run/app.sock", b"/run/app.sock"),
        (b"/run/\xff", b"/run/\xff"),
        ("/run/\udcff", b"/run/\xff"),
        (b"\0name", b"\0name"),
        (["localhost", 80], None),
        (None, None),
    ],
)
def test_an_address(address, permit):
    assert permit_of(address) == permit


def test_a_descriptor():
    assert permit_of(None, 7) == 7


def test_an_empty_host_is_every_address_of_the_family():
    assert permit_of(["", 80]) == ("0.0.0.0", 80)
    assert permit_of(["", 80, 0, 0], is_v6=True) == ("::", 80)


def test_the_interface_is_the_settings_affair():
    assert permit_of(("fe80::1%eth0", 80)) == permit_of(["fe80::1", 80, 0, 2]) == ("fe80::1", 80)


def test_the_options_are_those_that_they_are_called_here():
    tcp = (
        "NODELAY",
        "KEEPIDLE",
        "KEEPINTVL",
        "KEEPCNT",
        "DEFER_ACCEPT",
        "QUICKACK",
        "USER_TIMEOUT",
        "FASTOPEN",
    )
    inherited = {(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in tcp}
    assert {(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *inherited} == INHERITED
    for name in ("REUSEADDR", "TYPE", "ERROR", "LINGER", "REUSEPORT", "ACCEPTCONN", "PROTOCOL", "DOMAIN"):
        assert may_read(socket.SOL_SOCKET, getattr(socket, f"SO_{name}"))
        assert not may_set(socket.SOL_SOCKET, getattr(socket, f"SO_{name}"))
    for name in ("SNDBUF", "RCVBUF"):
        assert may_set(socket.SOL_SOCKET, getattr(socket, f"SO_{name}"))
    assert may_read(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize(
    ("level", "option"),
    [
        (1, 36),  # SO_MARK
        (1, 33),  # SO_RCVBUFFORCE
        (1, 26),  # SO_ATTACH_FILTER: a pointer
        (1, 50),  # SO_ATTACH_BPF: a descriptor
        (1, 25),  # SO_BINDTODEVICE
        (0, 64),  # IPT_SO_GET_INFO
        (1, 2**40),
        (-1, -1),
    ],
)
def test_other_options_are_neither_set_nor_read(level, option):
    assert not may_set(level, option)
    assert not may_read(level, option)
