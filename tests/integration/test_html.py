"""The page of a report in a real browser, and as a session writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvbench.reference.store import load
from kvbench.reporting import html
from kvbench.reporting.contents import of_saved
from kvbench.reporting.html import page
from kvbench.results import saved
from tests.support import DESIGN, EXPECTED
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.pages import parse, run_of
from tests.support.sessions import ALL, TinyProject, suite_of

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(run_of(load(EXPECTED, "fractals", DESIGN))), encoding="utf-8")
    return path


def shown(configuration: str, epoch: int, metric: str) -> str:
    """A pattern of what the page says of a configuration with a constant lr: its mean, and a range."""
    rows = run_of(load(EXPECTED, "fractals", DESIGN)).histories
    mean = rows.loc[(rows["configuration"] == configuration) & (rows["epoch"] == epoch), metric].mean()
    return rf"{configuration}, epoch {epoch}: {re.escape(f'{mean:.4g}')} \(0\.\d+ to 0\.\d+\)"


@in_a_browser
def test_text_is_the_files_with_scripts_and_without(chromium: Browser, written: Path) -> None:
    told = parse(written.read_text())
    tables = [[cell for row in one.cells for cell in row] for one in told.all("table")]
    for scripts in (True, False):
        chromium.open(written, width=1400, scripts=scripts)
        assert tables == chromium.evaluate("""[...document.querySelectorAll("table")].map((table) =>
          [...table.querySelectorAll("th, td")].map((cell) => cell.textContent.trim()))""")


@in_a_browser
def test_with_a_script_there_are_values_switches_and_scales_by_keyboard_alone(chromium: Browser, written: Path) -> None:
    chromium.open(written, width=1400)
    chromium.evaluate("document.querySelector('#train_loss figure svg').focus({focusVisible: true})")
    for key in ("ArrowRight", "ArrowDown"):
        chromium.press(key)
    tip = "document.getElementById('tip')"
    assert re.match(shown("Model2", 2, "train_loss"), chromium.evaluate(f"{tip}.textContent"))
    assert chromium.evaluate(f"{tip}.hidden") is False
    chromium.press("Escape")
    assert chromium.evaluate(f"{tip}.hidden") is True

    drawn = (
        "[...document.querySelectorAll('figure svg g[data-c=Model2]')].filter((g) => g.style.display !== 'none').length"
    )
    before = chromium.evaluate(drawn)
    chromium.evaluate("document.querySelectorAll('.legend input')[1].focus()")
    chromium.press(" ")
    assert (before > 20, chromium.evaluate(drawn)) == (True, 0)

    text = "document.querySelector('#train_loss .panels:not([hidden]) title').textContent"
    assert chromium.evaluate(text).endswith("(nat), logarithmic against epoch")
    chromium.evaluate("document.querySelector('#train_loss button').focus()")
    chromium.press(" ")
    assert chromium.evaluate(text).endswith("(nat) against epoch")
    assert chromium.faults == []


@in_a_browser
def test_a_pointer_shows_the_nearest_value(chromium: Browser, written: Path) -> None:
    chromium.open(written, width=1400)
    x, y = chromium.evaluate("""(() => {
      const line = document.querySelector("#val_accuracy figure svg g[data-x]");
      line.scrollIntoView({block: "center", behavior: "instant"});
      const [x, y] = line.querySelector("polyline").getAttribute("points").split(" ")[0].split(",").map(Number);
      const place = new DOMPoint(x, y).matrixTransform(line.ownerSVGElement.parentNode.getScreenCTM());
      return [place.x, place.y];
    })()""")
    chromium.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    said = chromium.evaluate("document.getElementById('tip').textContent")
    assert re.match(shown("Model1", 1, "val_accuracy"), said), said


@in_a_browser
def test_a_band_under_the_pointer_stands_out_without_a_script(chromium: Browser, written: Path) -> None:
    chromium.open(written, width=1400, scripts=False)
    band = "document.querySelector('#val_accuracy figure svg g[data-c=Model1] polygon')"
    opacity = f"Number(getComputedStyle({band}).fillOpacity)"
    faint = chromium.evaluate(opacity)
    x, y = chromium.evaluate(f"""(() => {{
      {band}.scrollIntoView({{block: "center", behavior: "instant"}});
      const [x, y] = {band}.getAttribute("points").split(" ")[1].split(",").map(Number);
      const place = new DOMPoint(x, y + 1).matrixTransform({band}.getScreenCTM());
      return [place.x, place.y];
    }})()""")
    chromium.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert chromium.evaluate(opacity) > 2 * faint


@in_a_browser
def test_a_screen_reader_finds_names_and_tables(chromium: Browser, written: Path) -> None:
    chromium.open(written, width=1400, scripts=False)
    nodes = chromium.tell("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    pictures = [name for role, name in named if role in {"image", "img"}]
    assert any(name.startswith("Training loss, StepLR: training loss (nat)") for name in pictures)
    assert all("Model7" in name for name in pictures), "what is drawn is told in words"
    assert {"main", "navigation"} <= {role for role, _ in named}
    assert sum(role == "table" for role, _ in named) >= 7


def test_a_session_writes_the_page_that_its_saved_run_gives(project: TinyProject) -> None:
    code, _ = project.run(suite_of(), "--kvbench-html=page.html", "--benchmark-json=run.json")
    assert code == 0
    assert "The same with figures: " in project.stdout
    mine = parse((project.path / "page.html").read_text())
    run = saved.read(project.path / "run.json")
    theirs = parse(page(of_saved(run, DESIGN, project.path / "expected")))
    assert "This run passed." in mine.text
    assert [one.cells for one in mine.all("table")] == [one.cells for one in theirs.all("table")]
    assert [one.text for one in mine.all("article")] == [one.text for one in theirs.all("article")]
    assert [one.attributes for one in mine.all("polyline")] == [one.attributes for one in theirs.all("polyline")]


def test_a_page_that_cannot_be_made_fails_no_run(project: TinyProject) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no page today")

    drawn = suite_of(ALL[:1], [])
    code, result = project.run(
        drawn, "--kvbench-html=page.html", disturb=lambda patch: patch.setattr(html, "page", broken)
    )
    assert (code, (project.path / "page.html").exists()) == (0, False)
    assert result is not None
    assert "Could not write the page to " in "".join(project.logged)
