"""Common code of the scripts that draw parts of a page from the code. Each part has a place between marks.

python docs/make_NAME.py [--check]    # rewrites the page; --check only says whether it is current
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

END = "<!-- end -->"


def begin(name: str) -> str:
    """The mark before the part `name`; "" is the only part of its page."""
    return f"<!-- {' '.join(['begin', *name.split()])}: made by docs/{Path(sys.argv[0]).name} -->"


def filled(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The page with fresh parts. Raises ValueError unless each part has exactly one place."""
    for name, draw in parts.items():
        fresh = f"{begin(name)}\n\n{draw()}\n\n{END}"
        pattern = f"{re.escape(begin(name))}.*?{re.escape(END)}"
        page, found = re.subn(pattern, lambda _, fresh=fresh: fresh, page, flags=re.DOTALL)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"there are {found} places for {name!r}")
    return page


def main(path: Path, parts: Mapping[str, Callable[[], str]]) -> int:
    """Rewrite the page at `path`, or check it, as the command line demands. Returns the exit status."""
    old = path.read_text(encoding="utf-8")
    new = filled(old, parts)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    path.write_text(new, encoding="utf-8")
    return 0
