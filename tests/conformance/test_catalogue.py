"""Each of Node's tests is accounted for, once."""

import re
import subprocess
import sys
from collections import Counter

from tests.conformance.catalogue import NOT_HERE, ROWS
from tests.conformance.node import translations
from tests.kit.folders import ROOT

NAMES = [row.split()[1] for rows in ROWS.values() for row in rows]


def test_every_test_of_node_has_a_translation_or_a_reason():
    translated = {name for ours in translations() for name in ours.names}
    assert sorted(set(NAMES) - translated - set(NOT_HERE)) == []
    assert sorted((translated | set(NOT_HERE)) - set(NAMES)) == []
    assert sorted(translated & set(NOT_HERE)) == []


def test_names_are_not_used_twice():
    for names in (NAMES, [name for ours in translations() for name in ours.names]):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_a_test_is_named_after_nodes():
    for ours in translations():
        assert ours.function == ours.names[0].replace("-", "_"), ours.file


def test_an_adaptation_is_explained():
    for ours in translations():
        assert ours.adapted is None or len(ours.adapted) > 20, ours.function


def test_the_page_of_parity_is_current():
    script = ROOT / "docs" / "make_parity.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0, (
        "run python docs/make_parity.py"
    )


def test_every_hole_of_node_is_on_the_page_with_its_tests():
    page = (ROOT / "docs" / "reference" / "node-parity.md").read_text(encoding="utf-8")
    section = page.partition("## Where Node is wrong")[2].partition("\n## ")[0]
    named = set(re.findall(r"\[(hole_\w+)\]\(\.\./\.\./tests/conformance/(\w+\.py)\)", section))
    folder = ROOT / "tests" / "conformance"
    written = {
        (name, path.name)
        for path in folder.glob("test_holes*.py")
        for name in re.findall(r"def test_(hole_\w+)", path.read_text(encoding="utf-8"))
    }
    assert named == written
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == [str(number) for number in range(1, 20)]
