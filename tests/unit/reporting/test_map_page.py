"""A sweep's page: what the markdown says, in colours, and nothing of a file unescaped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.harness.sweep import sweep
from kvbench.reporting import map_page as module
from kvbench.reporting.map_page import map_page
from kvbench.reporting.maps import Sweep
from kvbench.studies.grid import Grid
from kvbench.utils.errors import UserError
from kvbench.workloads import Workload
from tests.support.grids import STUDY
from tests.support.pages import parse


def swept(cache: Path, study: object = STUDY, **values: tuple[float, ...]) -> Sweep:
    grid = Grid(study, Workload.without_images("default"), values)  # type: ignore[arg-type]
    return sweep(grid, seeds=3, cache=cache, device="cpu")


def cells(markdown: str) -> list[str]:
    """Every cell of every table of markdown, as a reader sees it."""
    rows = [line for line in markdown.splitlines() if line.startswith("|") and not re.fullmatch(r"[|:-]+", line)]
    found = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    return [re.sub(r"\\(.)", r"\1", cell.replace("**", "")) for cell in found]


@pytest.mark.parametrize("values", [{"lr": (0.02, 0.08, 0.9)}, {"lr": (0.02, 0.08), "epochs": (2.0, 3.0)}])
def test_it_says_what_the_markdown_says(tmp_path: Path, values: dict[str, tuple[float, ...]]) -> None:
    found = swept(
        tmp_path, **{name: tuple(int(v) if name == "epochs" else v for v in row) for name, row in values.items()}
    )
    page = parse(map_page(found))
    shown = [" ".join(cell.split()) for table in page.all("table") for row in table.cells for cell in row]
    assert shown == cells(found.markdown())
    text = " ".join(page.text.split())
    for part in (*found.about.values(), *found.problems, *(finding.sentence for finding in found.findings)):
        assert " ".join(part.split()) in text
    squares = [cell for cell in page.all("td") if "square" in cell.attributes.get("class", "")]
    assert len(squares) == len(found.cells) * sum(len(found.scopes(finding)) for finding in found.findings)
    assert all(cell.text.partition(" ")[0] in cell.attributes["class"] for cell in squares)


def test_nothing_of_a_study_reaches_it_unescaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\x1b"
    first, *others = STUDY.findings
    study = replace(STUDY, findings=(replace(first, sentence=bad), *others))
    page = map_page(swept(tmp_path, study, lr=(0.02, 0.08)))
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "alert(1)" in page


def test_what_nobody_would_look_at_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    with pytest.raises(UserError, match=r"The page would have \d+ squares; at most 1 are shown: choose a --finding\."):
        map_page(swept(tmp_path, lr=(0.02, 0.08)))
