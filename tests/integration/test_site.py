"""The site: it is built without a warning, and every link in it leads to a page and a place on it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support import ROOT

pytest.importorskip("sphinx", reason="pip install 'kvbench[docs]'")
pytest.importorskip("myst_parser", reason="pip install 'kvbench[docs]'")
pytest.importorskip("furo", reason="pip install 'kvbench[docs]'")
PATIENCE = 900  # seconds: machines are shared


class Links(HTMLParser):
    """What a page links to, and the places on it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in {"href", "src"} and value:
                self.links.add(value)
            if name == "id" and value:
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-c", "docs", "-W", "--keep-going", "-n", "-q", ".", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return out


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > 20
    gone = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (target in pages and unquote(parts.fragment) not in pages[target].places):
                gone.append(f"{path.relative_to(site)}: {link}")
    assert gone == []


def test_the_site_has_every_document_and_every_public_name(site: Path) -> None:
    import kvbench

    for document in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / f"{document.stem}.html").is_file()
    described = set(re.findall(r'id="kvbench\.(\w+)"', (site / "docs" / "api.html").read_text()))
    assert {*kvbench.__all__} - described == {"history"}, "a module, whose functions are there"
    assert 'id="kvbench.results.history.frame"' in (site / "docs" / "api.html").read_text()
    assert (site / "docs" / "example.html").read_bytes() == (ROOT / "docs" / "example.html").read_bytes()
