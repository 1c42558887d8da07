"""Every kind of page in a real browser: quiet, by itself, readable on a telephone and a desk, and by anyone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.reference.moves import moves
from kvbench.reference.store import load
from kvbench.reporting import timeline
from kvbench.reporting.contents import of_expected
from kvbench.reporting.html import page
from kvbench.reporting.map_page import map_page
from kvbench.reporting.moves import page as moves_page
from kvbench.reporting.references_page import references_page
from kvbench.reporting.side_by_side import side_by_side
from kvbench.results.saved import Outcome
from tests.support import DESIGN, EXPECTED
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.grids import swept
from tests.support.pages import run_of
from tests.support.sides import changed, side

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


def run(_: Path) -> str:
    return page(run_of(load(EXPECTED, "fractals", DESIGN)))


def reference(_: Path) -> str:
    return page(of_expected(EXPECTED, "imagenet", DESIGN))


def references(_: Path) -> str:
    return references_page(side_by_side(EXPECTED, ["imagenet", "tiny-imagenet", "fractals"], DESIGN))


def compare(_: Path) -> str:
    histories = load(EXPECTED, "fractals", DESIGN).histories
    histories = histories[histories["seed"] < 6]
    after = changed(histories, "Model3", train_loss=1.3, val_accuracy=0.9, seconds=2.0)
    return moves_page(
        moves(*(side(name, rows, design=DESIGN) for name, rows in (("main", histories), ("patch", after))))
    )


def history(_: Path) -> str:
    histories = load(EXPECTED, "fractals", DESIGN).histories
    histories = histories[histories["seed"] < 4]
    names = histories["configuration"].unique()
    runs = []
    for number in range(1, 6):
        rows = changed(histories, "Model3", train_loss=1.3, seconds=2.0) if number == 4 else histories
        rows = rows[rows["configuration"] != names[-1]] if number == 5 else rows
        facts = {"date": f"2026-01-0{number}T00:00:00", "commit": f"{number}" * 7}
        outcome = Outcome.FAILED if number == 4 else Outcome.PASSED
        run = side(f"000{number}_nightly", rows, outcome, DESIGN, **facts)
        left = ("train_loss", "val_accuracy")
        drifted = {name: left if (name, number) == ("Model3", 4) else () for name in names} if number > 1 else {}
        runs.append(replace(run, drifted=drifted))
    return timeline.page(
        [timeline.Timeline("Linux-CPython-3.11-64bit", "kv-memory", "fractals", runs)], ["a.json is odd."]
    )


def sweep(cache: Path) -> str:
    return map_page(swept(cache, lr=(0.02, 0.05, 0.08, 0.9), batch_size=(32, 64, 128)))


KINDS: dict[str, Callable[[Path], str]] = {
    kind.__name__: kind for kind in (run, reference, references, compare, history, sweep)
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path: Path = folder / f"{request.param}.html"
    path.write_text(KINDS[request.param](folder), encoding="utf-8")
    return path


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_loads_quietly_and_fits(chromium: Browser, written: Path, width: int, dark: bool, scripts: bool) -> None:
    chromium.open(written, width=width, dark=dark, scripts=scripts)
    assert chromium.faults == []
    assert chromium.requests == []
    wide, window = chromium.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == width
    paper = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)")
    cut = chromium.evaluate("""[...document.querySelectorAll("figure svg text")].filter((text) => {
      const [mine, whole] = [text, text.ownerSVGElement].map((one) => one.getBoundingClientRect());
      return whole.width && (mine.left < whole.left - 1 || mine.right > whole.right + 1);
    }).map((text) => text.textContent)""")
    assert cut == []
    small = chromium.evaluate("""Math.min(...[...document.querySelectorAll("figure svg text")].map((text) =>
      text.getScreenCTM().a * 12).filter((size) => size > 0), 100)""")
    assert small > 9, "letters in pictures, in pixels"
    assert chromium.evaluate("document.querySelectorAll('table').length") > 0
    other = chromium.evaluate("document.querySelectorAll('details.other').length")
    assert not (scripts and other), "with scripts there is a button instead"
    if not scripts:  # all is there without a click but for what a summary announces
        hidden = chromium.evaluate("""[...document.querySelectorAll("main *")].filter((one) =>
          !one.closest("details") && getComputedStyle(one).display === "none").length""")
        assert hidden == 0
    if scripts:
        assert axe(chromium) == []


def axe(chromium: Browser) -> list[object]:
    """What axe-core finds wrong, with every part of the page opened."""
    package = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    chromium.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    chromium.evaluate((Path(package.__file__).parent / "axe.min.js").read_text() + "; 0")
    found: list[object] = chromium.evaluate(
        "axe.run().then((told) => told.violations.map((one) => "
        "[one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.html)]))"
    )
    return found


def test_it_prints_on_white_without_what_only_a_screen_needs(chromium: Browser, written: Path) -> None:
    chromium.open(written, width=800, dark=True, media="print")
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert len(chromium.tell("Page.printToPDF")["data"]) > 20_000
