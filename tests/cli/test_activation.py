"""Socket activation, by the rules of sd_listen_fds(3)."""

import pytest

from everycore.cli.activation import activated_descriptors, passed_descriptors
from everycore.errors import ConfigurationError


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"LISTEN_PID": "41", "LISTEN_FDS": "2"}, [3, 4]),
        ({"LISTEN_PID": "41", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "40", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "41"}, []),
        ({}, []),
    ],
    ids=["two", "none", "another process", "nobody's", "no count", "nothing"],
)
def test_what_was_handed_over(environ, found):
    assert activated_descriptors(environ, 41) == found


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("web:everycore-7", {3: "web", 4: "everycore-7"}),
        ("web", {3: "", 4: ""}),
        ("a:b:c", {3: "", 4: ""}),
        (":", {3: "", 4: ""}),
    ],
    ids=["two", "too few", "too many", "empty"],
)
def test_names(names, found):
    environ = {"LISTEN_PID": "41", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names}
    assert passed_descriptors(environ, 41) == found


def test_what_an_earlier_primary_has_stored_was_not_opened_by_systemd():
    environ = {"LISTEN_PID": "41", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "everycore-7-1-2:web:everycore-8"}
    assert activated_descriptors(environ, 41) == [4]


@pytest.mark.parametrize("count", ["", "-1", "x", "99999", "²"])
def test_a_malformed_count(count):
    with pytest.raises(ConfigurationError, match=r"^LISTEN_FDS"):
        activated_descriptors({"LISTEN_PID": "41", "LISTEN_FDS": count}, 41)
