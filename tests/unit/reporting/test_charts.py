"""The picture of the curves."""

from __future__ import annotations

import builtins
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from kvbench.reference.store import load
from kvbench.reporting.charts import curves_chart
from kvbench.reporting.figures import MAKERS
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED, ROOT
from tests.support.commands import Call
from tests.support.saved_runs import benchmark, content
from tests.support.tables import rows

pytest.importorskip("matplotlib")


def test_the_same_curves_give_the_same_bytes(tmp_path: Path) -> None:
    histories = history.frame(rows("Model1", [2.0, 1.0], [0.1, 0.2]))
    for name in ("one.svg", "two.svg"):
        curves_chart(histories, DESIGN, tmp_path / name, "one")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_committed_picture_is_what_its_command_draws(call: Call) -> None:
    committed = (ROOT / "docs" / "curves.svg").read_text()
    told = call("plot", "--expected", "fractals", "--folder", EXPECTED, "--output", "new.svg")
    assert told.code == 0, told.err
    drawn = Path("new.svg").read_text()
    made_with = [re.search(r"Matplotlib v[\d.]+", text) for text in (committed, drawn)]
    if made_with[0] and made_with[1] and made_with[0][0] != made_with[1][0]:
        pytest.skip(f"docs/curves.svg was drawn with {made_with[0][0]}, here is {made_with[1][0]}")
    assert drawn == committed


def texts(svg: Path) -> list[str]:
    """What an SVG file of matplotlib's writes: each text that it draws as paths stands there as a comment."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text())


def test_every_student_is_named_in_each_of_its_panels(tmp_path: Path) -> None:
    half = history.frame([*rows("Model1", [2.0, 1.0], [0.1, 0.2]), *rows("lr_Model1", [2.0, 1.0], [0.1, 0.2]),
                          *rows("Mine", [3.0, 2.0], [0.1, 0.3])])  # fmt: skip
    curves_chart(half, DESIGN, tmp_path / "a.svg", "half")
    written = texts(tmp_path / "a.svg")
    assert (written.count("Model1"), written.count("Mine")) == (4, 2)
    assert {"StepLR", "constant lr", "others", "half: one seed", "epoch"} <= {*written}
    curves_chart(half[half["configuration"] == "Mine"], DESIGN, tmp_path / "b.svg", "half")
    assert "StepLR" not in texts(tmp_path / "b.svg")


def test_a_run_that_diverged_is_drawn_as_far_as_it_got(tmp_path: Path) -> None:
    lost = history.frame(rows("Model1", [2.0, math.inf], [0.1, 0.2]) + rows("Model2", [math.nan, math.nan], [0.1, 0.1])
                         + rows("Model3", [1.0, 0.0], [0.1, 0.1]))  # fmt: skip
    curves_chart(lost, DESIGN, tmp_path / "a.svg", "lost")
    written = texts(tmp_path / "a.svg")
    assert [written.count(name) for name in ("Model1", "Model2", "Model3")] == [2, 1, 2]


def test_a_name_from_a_file_is_text_and_not_a_formula(tmp_path: Path) -> None:
    strange = history.frame(rows(r"$\frac$", [2.0, 1.0], [0.1, 0.2]))
    curves_chart(strange, DESIGN, tmp_path / "a.png", r"$\nonsense{$")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_of_another_kind_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"curves\.bmp: its suffix must be one of \.svg, \.pdf, \.png"):
        curves_chart(load(EXPECTED, "imagenet", DESIGN).histories, DESIGN, tmp_path / "curves.bmp", "imagenet")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    told = call("plot", "--expected", "imagenet", "--folder", EXPECTED)
    assert (told.code, told.err) == (2, "Error: Drawing needs matplotlib: pip install 'kvbench[plot]'.\n")


def test_a_saved_run_is_drawn_as_well(call: Call) -> None:
    Path("saved.json").write_text(json.dumps(content(benchmark("Model1"), benchmark("lr_Model2"))))
    told = call("plot", "saved.json")
    assert (told.code, told.out) == (0, "curves.svg\n")
    assert {"Model1", "Model2"} <= {*texts(Path("curves.svg"))}


@pytest.mark.parametrize("chart", [*MAKERS])
def test_every_figure_of_the_page_can_be_drawn_for_a_paper(chart: str, call: Call) -> None:
    told = call("plot", "--expected", "fractals", "--folder", EXPECTED, "--chart", chart, "--output", "a.svg")
    assert told.code == 0, told.err
    written = texts(Path("a.svg"))
    assert {"StepLR", "constant lr"} <= {*written}
    assert written.count("Model7") == 2
    for output, start in (("a.pdf", b"%PDF"), ("a.png", b"\x89PNG")):
        assert call("plot", "--expected", "imagenet", "--folder", EXPECTED, "--output", output).code == 0
        assert Path(output).read_bytes().startswith(start)


def test_a_chart_that_cannot_be_drawn_is_named(call: Call) -> None:
    told = call("plot", "--expected", "imagenet", "--folder", EXPECTED, "--chart", "second")
    assert told.code == 2
    assert told.err == (
        "Error: Unknown chart 'second'. Valid: curves, train_loss, val_accuracy, time-epochs, loss-accuracy.\n"
    )


@pytest.mark.parametrize("arguments", [[], ["a.json", "--expected", "imagenet"]])
def test_a_plot_needs_a_file_or_a_workload(arguments: list[str], call: Call) -> None:
    told = call("plot", *arguments)
    assert told.code == 2
    assert told.err.startswith("Error: Name either a saved benchmark")
