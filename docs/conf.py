"""The site: Sphinx over the markdown of README and docs/, and over docstrings.

Built from the root of the repository: ``sphinx-build -c docs -W --keep-going -n . SITE``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "kvbench"
copyright = "kvbench's authors, MIT licence"  # noqa: A001 (Sphinx's name)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.rst"]
html_theme = "furo"
html_title = "kvbench"
html_extra_path = ["site"]  # index.html, since the pages lie where they do in the repository
html_copy_source = False
myst_heading_anchors = 4  # links to headings are checked
myst_enable_extensions = ["colon_fence"]
highlight_language = "none"  # of blocks that name none: commands and what they print
suppress_warnings = ["myst.header"]  # the pages that commands write begin with their own levels

autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "__init__"}
autodoc_inherit_docstrings = False  # torch's have references to its own pages
autodoc_typehints = "none"  # signatures have the names that docstrings explain
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_param = False
default_role = "code"  # `name` in a docstring


def live_pages(_app: Sphinx, doctree: nodes.document) -> None:
    """Let links to pages of HTML open them instead of saving them."""
    for node in list(doctree.findall(addnodes.download_reference)):
        if node["reftarget"].endswith(".html"):
            link = nodes.reference("", "", *node.children, refuri=node["reftarget"].removeprefix("/"), internal=True)
            node.replace_self(link)


def keep_colons(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in a property's first line for its type: put nothing visible there."""
    if what == "property":
        lines.insert(0, "\\ ")


def copy_pages(app: Sphinx, error: Exception | None) -> None:
    """Put the example page where links lead."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "docs" / "example.html"
        target.write_bytes((ROOT / "docs" / "example.html").read_bytes())


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("doctree-read", live_pages)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("build-finished", copy_pages)
