"""Which passed socket answers which request to listen."""

import socket

import pytest

from everycore.core.passed import Passed, StoredName, Wanted, answers, is_in_the_way, read_name

V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.parametrize("name", [StoredName(7), StoredName(7, (1, 2**64 - 1))])
def test_a_name_is_read_as_it_was_written(name):
    assert read_name(str(name)) == name
    assert ":" not in str(name)  # which separates names
    assert len(str(name)) <= 255


@pytest.mark.parametrize(
    "text", ["", "unknown", "app.socket", "everycore", "everycore-", "everycore-7-1", "everycore-7x", "x-7"]
)
def test_names_of_others(text):
    assert read_name(text) is None


@pytest.mark.parametrize(
    ("family", "passed", "wanted"),
    [
        (V4, ("127.0.0.1", 80), ("127.0.0.1", 80)),
        (V4, ("0.0.0.0", 80), ("", 80)),
        (V6, ("::", 80, 0, 0), ("", 80)),
        (V6, ("::1", 80, 0, 0), ("0:0:0:0:0:0:0:1", 80)),
        (V6, ("fe80::1", 80, 0, 2), ("fe80::1", 80, 0, 2)),
        (UNIX, "\0name", "\0name"),
        (UNIX, "/run/app.sock", "/run/app.sock"),
    ],
)
def test_what_answers(family, passed, wanted):
    assert answers(Passed(3, family, STREAM, passed, True), Wanted(family, STREAM, wanted, True))


@pytest.mark.parametrize(
    ("passed", "wanted"),
    [
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("127.0.0.1", 81), True)),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("0.0.0.0", 80), True)),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, DATAGRAM, ("127.0.0.1", 80), True)),
        ((V6, STREAM, ("::", 80, 0, 0), False), (V4, STREAM, ("0.0.0.0", 80), False)),
        ((V6, STREAM, ("::", 80, 0, 0), False), (V6, STREAM, ("::", 80), True)),
        ((V6, STREAM, ("fe80::1", 80, 0, 2), True), (V6, STREAM, ("fe80::1", 80, 0, 3), True)),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("127.0.0.1", 0), True)),
        ((UNIX, STREAM, "/run/a", True), (UNIX, STREAM, "/run/b", True)),
    ],
    ids=["port", "host", "kind", "family", "v6only", "interface", "any port", "path"],
)
def test_what_does_not(passed, wanted):
    assert not answers(Passed(3, *passed), Wanted(*wanted))


@pytest.mark.parametrize(
    ("passed", "wanted", "is_so"),
    [
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("0.0.0.0", 80), True), True),
        ((V4, STREAM, ("0.0.0.0", 80), True), (V4, STREAM, ("127.0.0.1", 80), True), True),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("127.0.0.1", 80), True), False),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("127.0.0.2", 80), True), False),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, STREAM, ("0.0.0.0", 81), True), False),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V4, DATAGRAM, ("0.0.0.0", 80), True), False),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V6, STREAM, ("::", 80, 0, 0), False), True),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V6, STREAM, ("::", 80, 0, 0), True), False),
        ((V4, STREAM, ("127.0.0.1", 80), True), (V6, STREAM, ("::1", 80, 0, 0), False), False),
        ((V6, STREAM, ("::", 80, 0, 0), False), (V4, STREAM, ("127.0.0.1", 80), True), True),
        ((V6, STREAM, ("::", 80, 0, 0), False), (V6, STREAM, ("::", 80, 0, 0), True), True),
        ((UNIX, STREAM, "/run/a", True), (V4, STREAM, ("0.0.0.0", 80), True), False),
        ((V4, STREAM, ("0.0.0.0", 80), True), (UNIX, STREAM, "/run/a", True), False),
    ],
)
def test_what_is_in_the_way(passed, wanted, is_so):
    assert is_in_the_way(Passed(3, *passed), Wanted(*wanted)) == is_so


@pytest.mark.parametrize(("file", "answered"), [((1, 5), True), ((1, 6), False), (None, False)])
def test_a_stored_unix_socket_has_to_be_at_its_path_still(file, answered):
    """The spelling of its path does not matter: the program may have been in another folder."""
    passed = Passed(3, UNIX, STREAM, "app.sock", True, StoredName(9, (1, 5)))
    assert answers(passed, Wanted(UNIX, STREAM, "/run/app/app.sock", True, file)) == answered
