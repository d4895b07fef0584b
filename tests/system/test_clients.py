"""The identity of a client, by its address."""

import pytest

from everycore.system.clients import client_of

V4 = bytes([192, 0, 2, 1])
NETWORK = bytes.fromhex("20010db800010002")


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("192.0.2.1", 4711), V4),
        (["192.0.2.1", 4711], V4),
        (("::ffff:192.0.2.1", 4711, 0, 0), V4),
        (("2001:db8:1:2::5", 4711, 0, 0), NETWORK),
        (["2001:db8:1:2:aaaa:bbbb:cccc:dddd", 1, 0, 0], NETWORK),
        (("fe80::1%eth0", 1, 0, 2), bytes.fromhex("fe80" + 13 * "00" + "01")),
        (("::1", 1, 0, 0), bytes(8)),
        ("", None),
        ("/run/client.sock", None),
        (b"\0abstract", None),
        (None, None),
        (("no address", 1), None),
        (("1.2.3", 1), None),
        (("1.2.3.4\0", 1), None),
        (("\udc80", 1), None),
        ((":::", 1), None),
    ],
)
def test_of_an_address(peer, client):
    assert client_of(peer) == client


def test_the_port_is_of_no_importance():
    assert client_of(("192.0.2.1", 1)) == client_of(("192.0.2.1", 2))
