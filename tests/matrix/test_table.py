"""The table of the matrix agrees with its results. No program is started."""

import tomllib
from pathlib import Path

import pytest

from tests.kit import matrix_life
from tests.kit.folders import ROOT
from tests.kit.matrix_life import files_in, is_even
from tests.kit.matrix_probes import PROBES, Answer, read
from tests.matrix.results import Finding, keep
from tests.matrix.results import read as read_results
from tests.matrix.table import POLICIES, PROPERTIES, ROWS, Row

PROGRAMS = Path(__file__).parent / "programs"
HELPERS = {"answer.py"}


def pins() -> dict[str, str]:
    """The version of each package that the group names."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pinned = [words.split("==") for words in groups["matrix"] if isinstance(words, str)]
    return {name.partition("[")[0]: version for name, version in pinned}


def test_it_is_as_large_as_is_promised():
    assert len(ROWS) >= 40
    assert len({row.package for row in ROWS} - {"python"}) >= 30
    assert sum(row.is_tls for row in ROWS) >= 5
    assert sum(row.is_unix for row in ROWS) >= 3


def test_each_row_is_a_program_of_its_own():
    assert len({row.name for row in ROWS}) == len({row.command for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_what_there_is(row):
    assert row.probe in PROBES
    assert row.package in pins().keys() | {"python"}
    assert {
        name.removeprefix("shared ").removeprefix("round_robin ") for name in row.but
    } <= PROPERTIES.keys()
    assert ("{path}" in row.command) is row.is_unix
    assert ("{pem}" in row.command) is row.is_tls


def test_each_program_is_started():
    """By its name, or as a module of another one."""
    named = " ".join(row.command for row in ROWS)
    files = {path for path in PROGRAMS.glob("*.py") if path.name not in HELPERS}
    assert {path.name for path in files if path.stem not in named} == set()


def test_all_of_it_was_tried_with_the_versions_that_are_pinned():
    found = read_results()
    assert found.keys() == {row.name for row in ROWS}, "run: make matrix"
    for row in ROWS:
        assert found[row.name]["version"] == pins().get(row.package, ""), f"{row.name}; run: make matrix"
        assert found[row.name].keys() == {"version", *POLICIES}, f"{row.name}; run: make matrix"


# The checks themselves: each must be able to fail


def test_an_exception_is_for_one_policy_or_both():
    row = Row("x", "python", "x.py", but={"spread": "one", "shared killed": "other"})
    assert row.exception("spread", "round_robin") == row.exception("spread", "shared") == "one"
    assert row.exception("killed", "shared") == "other"
    assert row.exception("killed", "round_robin") is None


def test_what_is_uneven_is_found(monkeypatch):
    monkeypatch.setattr(matrix_life, "scaled", lambda seconds: seconds)
    assert is_even([20, 20, 20])
    assert is_even([22, 20, 18])
    assert not is_even([23, 19, 18])
    assert not is_even([30, 30, 0])


def test_an_answer_is_read_however_it_is_wrapped():
    assert read(b'{"answer":"worker=7 client=127.0.0.9;"}') == Answer(7, "127.0.0.9")
    with pytest.raises(AssertionError):
        read(b"502 Bad Gateway")


def test_files_that_are_left_are_found(tmp_path):
    (tmp_path / "folder" / "__pycache__").mkdir(parents=True)
    (tmp_path / "folder" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "folder" / "left").touch()
    assert files_in(tmp_path) == {"folder", "folder/left"}


def test_findings_are_kept_in_the_order_of_the_table(tmp_path):
    path = tmp_path / "results.json"
    first, second = ROWS[0].name, ROWS[1].name
    keep([Finding(second, "shared", "1", ["all"]), Finding("gone", "shared", "1", [])], path)
    keep([Finding(first, "shared", "", ["all"])], path)
    assert list(read_results(path)) == [first, second]
    keep([Finding(second, "round_robin", "2", ["all"])], path)
    assert read_results(path)[second] == {
        "version": "2",
        "round_robin": ["all"],
    }  # the other one was of before
