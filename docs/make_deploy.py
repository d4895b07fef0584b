"""Copies the files of examples/deploy, which the tests use, into the pages that explain them.

python docs/make_deploy.py [--check]    # rewrites the pages; --check only says whether they are current
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from drawn import begin, main

HOW_TO = Path(__file__).parent / "how-to"
DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"
#: The language for highlighting, by the suffix of the file name.
KINDS = {
    ".service": "ini",
    ".socket": "ini",
    ".yaml": "yaml",
    "supervisord.conf": "ini",
    "nginx.conf": "nginx",
}


def block(name: str) -> str:
    """The whole file."""
    kind = next((kind for end, kind in KINDS.items() if name.endswith(end)), "")
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return f"```{kind}\n{text}```"


def parts_of(page: Path) -> dict[str, Callable[[], str]]:
    """The files for which the page has a place."""
    pattern = re.escape(begin("NAME")).replace("NAME", r"(\S+)")
    return {name: partial(block, name) for name in re.findall(pattern, page.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    parts = {page: parts_of(page) for page in sorted(HOW_TO.glob("*.md"))}
    sys.exit(max(main(page, names) for page, names in parts.items() if names))
