"""One spelling for what a worker of another user may listen on."""

import pytest

from everycore.core.permits import permit_of


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
