"""Each file that the tests try beside other programs is in a page, verbatim."""

import re

from tests.kit.folders import ROOT
from tests.kit.neighbours import DEPLOY

HOW_TO = ROOT / "docs" / "how-to"


def test_every_file_of_examples_deploy_is_in_one_page():
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(HOW_TO.glob("*.md")))
    shown = re.findall(r"<!-- begin (\S+): made by docs/make_deploy\.py -->", text)
    files = [path.name for path in DEPLOY.iterdir() if path.suffix != ".py" and path.is_file()]
    assert sorted(shown) == sorted(files)
    assert all((DEPLOY / name).read_text(encoding="utf-8") in text for name in files)
