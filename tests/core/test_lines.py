"""Lines are cut out of a byte stream as they come."""

import pytest

from everycore.core.lines import LineBuffer
from everycore.errors import ControlError


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_cut_wherever_the_pieces_end(size):
    lines, found = LineBuffer(10), []
    data = b"one\n\ntwo\nthree"
    for at in range(0, len(data), size):
        lines.feed(data[at : at + size])
        while (line := lines.line()) is not None:
            found.append(line)
    assert found == [b"one", b"", b"two"]
    lines.feed(b"\n")
    assert lines.line() == b"three"


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(("size", "is_long"), [(10, False), (11, True)])
def test_a_line_has_an_end_within_its_limit(size, end, is_long):
    lines = LineBuffer(10)
    lines.feed(b"x" * size + end)
    if is_long:
        with pytest.raises(ControlError, match="longer than 10 bytes"):
            lines.line()
    else:
        lines.line()
