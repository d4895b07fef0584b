"""The picture of `python -m bench spread`: it shows the counts, and names the servers that are missing."""

import re
import xml.etree.ElementTree as ET

import pytest

from bench import spread
from bench.contestants import Options
from bench.drawing import BARS, Panel, picture
from tests.kit.folders import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def bars(drawn: str) -> dict[str, list[float]]:
    """The heights of the bars of each kind, in their order."""
    found: dict[str, list[float]] = {}
    for bar in ET.fromstring(drawn).iter(f"{SVG}rect"):
        found.setdefault(bar.attrib["class"], []).append(float(bar.attrib["height"]))
    return found


def words(drawn: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(drawn).iter(f"{SVG}text")]


def test_a_bar_is_as_high_as_its_count_says():
    panels = [Panel("<one> & co", [90, 30]), Panel("ours", [60, 60], ours=True)]
    drawn = picture("Who", panels, mean=60, notes=["A note."])
    assert bars(drawn) == {"peer": [BARS, BARS / 3], "ours": [BARS * 2 / 3] * 2}
    assert words(drawn) == ["Who", "<one> & co", "30 to 90 a worker", "ours", "60 to 60 a worker", "A note."]


def test_the_round_of_the_median_is_drawn():
    rounds = [[60, 40], [90, 10], [70, 30]]
    assert "30 to 70 a worker" in words(spread.drawn({"everycore shared": rounds}, {}, "A machine."))


def test_a_server_that_is_not_installed_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr(spread, "version", lambda package: None if package == "granian" else "1.0")
    monkeypatch.setattr("bench.spread.shutil.which", lambda _: None)
    missing = spread.absent()
    assert missing == {"granian": "granian", "node rr": "node", "node none": "node"}
    there = ["uvicorn", "gunicorn", "everycore shared", "everycore round_robin"]
    assert list(spread.contestants(Options(), missing)) == there
    drawn = spread.drawn({"uvicorn": [[2, 1]]}, missing, "A machine.")
    assert words(drawn)[1] == "uvicorn 1.0"
    assert words(drawn)[-1].startswith("Not installed where this was drawn: granian, Node's cluster")
    assert "granian was left out: granian is not installed" in spread.report({}, 1, missing)


@pytest.mark.parametrize("part", ["uvicorn", "gunicorn", "granian", "rr", "none", "round_robin", "shared"])
def test_the_picture_of_the_readme_shows_everybody(part):
    told = ET.parse(ROOT / "docs/spread.svg").getroot().findtext(f"{SVG}desc") or ""
    panels = dict(panel.rsplit(": ", 1) for panel in told.split("; "))
    (counted,) = [text for name, text in panels.items() if re.search(rf"\b{part}\b", name)]
    counts = [int(count) for count in counted.split(", ")]
    assert (len(counts), sum(counts)) == (spread.WORKERS, spread.CONNECTIONS)
    assert counts == sorted(counts, reverse=True)
