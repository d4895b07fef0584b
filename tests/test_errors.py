"""How the errors of a task group are classified, and how texts repeat what a peer has sent."""

import msgspec
import pytest

from everycore.core import wire
from everycore.errors import ProtocolError, consists_of, in_a_line


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError(), True),
        (ValueError(), False),
        (group(KeyError(), KeyError()), True),
        (group(KeyError(), ValueError()), False),
        (group(group(KeyError()), KeyError()), True),
        (group(KeyError(), group(KeyError(), group(ValueError()))), False),
        (group(KeyboardInterrupt()), False),
    ],
    ids=repr,
)
def test_a_group_consists_of_what_all_its_errors_are(error, expected):
    assert consists_of(error, lambda inner: isinstance(inner, LookupError)) is expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ä and \\", "plain, with ä and \\"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("no text: \udcff", r"no text: \udcff"),
        ("\u202eright to left", r"\u202eright to left"),
        ("x" * 401, "x" * 400 + "..."),
        ("\0" * 400, r"\x00" * 100 + "..."),
    ],
)
def test_what_others_have_written_fits_into_a_line(text, shown):
    assert in_a_line(text) == shown


def test_a_peer_that_breaks_the_protocol_writes_no_line_of_the_log():
    """The decoder repeats the word that it does not know."""
    word = "Surrender\n2026-11-28 [primary] INFO forged" + "x" * 100_000
    with pytest.raises(ProtocolError) as caught:
        wire.decode_to_primary(msgspec.msgpack.encode([word, 1]))
    assert r"Surrender\n2026" in str(caught.value)
    assert len(str(caught.value)) < 500
