"""The site: `make docs` builds it with Sphinx from the Markdown of the repository, strictly.

The source folder is the root of the repository: README.md is the first page here too, and every link between
two files is checked. Invariant: the pages are plain Markdown, which a code forge shows as well. This module
makes what only the site needs, the order of pages and the targets of Python's names, from the links and
headings that a reader sees.
"""

import re
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
_METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _METADATA["name"]
release = version = _METADATA["version"]
author = _METADATA["authors"][0]["name"]
project_copyright = author

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "bench/README.md", "examples/**/README.md"]
exclude_patterns = [".*", "build", "dist", "src", "tests", "bench/node", "bench/programs", "tools"]
source_suffix = {".md": "markdown"}
highlight_language = "text"  # for code without a language: what a terminal shows

myst_heading_anchors = 4  # as forges name them
myst_fence_as_directive = ["mermaid"]  # drawings, which forges draw too

nitpicky = True  # a reference without a target is a warning, and `make docs` accepts no warning
show_warning_types = True

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_additional_pages = {"index": "first.html"}  # a browser that opens the folder shows this
templates_path = ["templates"]

#: Pages whose links give the order of the site.
_CONTENTS = re.compile(r"README|docs/README|docs/[\w-]+/README")
_LINK = re.compile(r"\]\(([^)#\s:]+\.md)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
#: Pages of names, and the module that has the names.
_NAMES = {"docs/reference/api": "everycore", "docs/reference/testing": "everycore.testing"}


def _add_contents(_: Sphinx, page: str, source: list[str]) -> None:
    """Turn the links of a contents page into the site's table of contents, in their order."""
    if not _CONTENTS.fullmatch(page):
        return
    folder = (ROOT / page).parent
    if page == root_doc:
        entries = ["docs/README", "CHANGELOG", "CONTRIBUTING", "docs/style"]
    else:
        links = [folder / link for link in _LINK.findall(_FENCE.sub("", source[0]))]
        below = [link.resolve() for link in links if link.resolve().is_relative_to(folder)]
        # A page belongs to the contents of its own folder: contents above only mention it.
        own = [link for link in below if link.parent == folder or link.name == "README.md"]
        entries = ["/" + str(link.relative_to(ROOT).with_suffix("")) for link in dict.fromkeys(own)]
    source[0] += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(entries) + "\n```\n"


def _add_names(app: Sphinx, document: nodes.document) -> None:
    """Tell Sphinx where each name is documented, for the search and the inventory that other projects use."""
    module = _NAMES.get(app.env.docname)
    if module is None:
        return
    domain = app.env.domains.python_domain
    for section in document.findall(nodes.section):
        title = section.next_node(nodes.title)
        if title is None or len(title.children) != 1 or not isinstance(title.children[0], nodes.literal):
            continue
        name = re.match(r"[\w.]+", title.astext())
        if name:
            kind = "method" if "." in name[0] else "class" if name[0][0].isupper() else "function"
            domain.note_object(f"{module}.{name[0]}", kind, section["ids"][0], location=section)


def _stand_alone(app: Sphinx, _: nodes.document) -> None:
    """Keep notes of examples and benchmarks out of the chapters: the pages that mention them link to them."""
    if app.env.docname.startswith(("examples/", "bench/")):
        app.env.metadata[app.env.docname]["orphan"] = True


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_contents)
    app.connect("doctree-read", _add_names)
    app.connect("doctree-read", _stand_alone)
