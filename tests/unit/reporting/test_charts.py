"""The picture of the curves."""

from __future__ import annotations

import builtins
import json
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvbench.reference.store import load
from kvbench.reporting.charts import GREY, LOWER, curves_chart
from kvbench.reporting.figures import MAKERS
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED, ROOT
from tests.support.commands import Call
from tests.support.saved_runs import benchmark, content, run_of
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


@pytest.mark.parametrize("chart", ["curves", *MAKERS])
def test_every_figure_of_the_page_can_be_drawn_for_a_paper(chart: str, call: Call) -> None:
    for output in ("a.svg", "a.pdf", "a.png"):
        told = call("plot", "--expected", "fractals", "--folder", EXPECTED, "--chart", chart, "--output", output)
        assert told.code == 0, told.err
    written = texts(Path("a.svg"))
    assert {"StepLR", "constant lr"} <= {*written}
    assert written.count("Model7") == (4 if chart == "curves" else 2)
    pdf = Path("a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/CIDFontType2" in pdf, "fonts are embedded as TrueType"
    assert b"/Type3" not in pdf, "which publishers refuse"
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_for_print_is_black_on_white_and_one_for_pages_reads_on_any_ground(tmp_path: Path) -> None:
    from matplotlib.image import imread

    histories = history.frame(rows("Model1", [2.0, 1.0], [0.1, 0.2]))
    for name in ("a.svg", "a.pdf", "a.png"):
        curves_chart(histories, DESIGN, tmp_path / name, "one")
    pixels = imread(tmp_path / "a.png")
    assert (pixels[0, 0] == 1).all(), "white, and opaque"
    assert pixels[:, :, :3].max(axis=2).min() == 0, "black text"
    streams = re.findall(rb"stream\r?\n(.*?)endstream", (tmp_path / "a.pdf").read_bytes(), flags=re.DOTALL)
    content = next(text for text in map(zlib.decompress, streams) if b"BT" in text)
    assert b" 0 g\n" in content
    assert b"0.4666666667 g\n" not in content, "no grey text"
    svg = (tmp_path / "a.svg").read_text()
    assert "fill: #777777" in svg
    assert "#ffffff" not in svg


@pytest.fixture
def axes(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[Any]]:
    """The axes of a chart of a saved run of fractals, as matplotlib has them."""
    from matplotlib.figure import Figure

    reference, caught = load(EXPECTED, "fractals", DESIGN), list[Any]()
    histories = reference.histories[reference.histories["seed"] < 2]
    (tmp_path / "run.json").write_text(json.dumps(run_of(histories, workload="fractals")))
    write = Figure.savefig

    def catch(self: Figure, *arguments: Any, **options: Any) -> None:
        caught.append(self)
        write(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", catch)

    def axes(chart: str) -> list[Any]:
        told = call("plot", tmp_path / "run.json", "--folder", EXPECTED, "--chart", chart, "--output", "a.svg")
        assert told.code == 0, told.err
        return list(caught.pop().axes)

    return axes


@pytest.mark.parametrize("chart", ["curves", "agreement", "loss-accuracy"])
def test_the_reference_stands_behind_the_curves_of_a_saved_run(chart: str, axes: Callable[[str], list[Any]]) -> None:
    for panel in axes(chart):
        behind = [line for line in panel.lines if line.get_color() == GREY and line.get_linestyle() == ":"]
        assert len(behind) == 7
        assert panel.lines[:7] == behind, "drawn first"
        assert sum(text.get_text() == "Model7" for text in panel.texts) == 1, "the reference's are not named"
    assert any(text.endswith("; dotted: the reference") for text in texts(Path("a.svg")))


def test_the_reference_stands_below_the_times_of_a_saved_run(axes: Callable[[str], list[Any]]) -> None:
    for panel in axes("time-epochs"):
        hollow = [line for line in panel.lines if line.get_marker() == "o" and line.get_fillstyle() == "none"]
        filled = [line for line in panel.lines if line.get_marker() == "o" and line.get_fillstyle() == "full"]
        assert (len(hollow) > 4, len(filled)) == (True, 7)
        rows = {float(line.get_ydata()[0]) for line in filled}
        assert {round(float(line.get_ydata()[0]) - LOWER, 6) for line in hollow} <= rows
    assert "fractals: Time to target in epochs; hollow: the reference" in texts(Path("a.svg"))


def test_loss_against_accuracy_is_drawn_whole_with_a_dot_at_each_end(axes: Callable[[str], list[Any]]) -> None:
    for panel in axes("loss-accuracy"):
        low, high = sorted(panel.get_xlim())
        for line in panel.lines:
            assert low < min(line.get_xdata()) < max(line.get_xdata()) < high
        assert [(line.get_marker(), line.get_markevery()) for line in panel.lines[7:]] == [("o", [-1])] * 7


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
