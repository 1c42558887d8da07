"""The benchmark against peers: what its contestants compute, its arithmetic, and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.performance import cold, contest, material, roofline, sharing
from benchmarks.performance.__main__ import measure
from benchmarks.performance.contest import HeadsLoop, PeerLoop, SourceLoop, Tapped, standing
from benchmarks.performance.material import QUICK, quartiles, round_robin, scaled
from benchmarks.performance.page import Target, page, targets
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.run import Run
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError

BATCHES = torch.split(torch.randperm(96, generator=torch.Generator().manual_seed(0)), 32)  # as a run of seed 0 draws


@pytest.fixture(scope="module")
def images() -> material.InMemory:
    return material.fractals(96, 32)


@pytest.fixture(scope="module")
def losses(images: material.InMemory) -> dict[str, float]:
    """The first epoch's mean training loss of two students, from kvbench's run on a bank."""
    bank = material.passed(images)
    made = {}
    for name in ("Model1", "Model3"):
        run = Run(Configuration(STUDY.student(name), Recipe(epochs=1, batch_size=32, lr=1e-3)), bank, bank, 0)
        run.epoch()
        run.evaluate()
        made[name] = run.history[0]["train_loss"]
    return made


def test_the_sources_loop_has_kvbenchs_losses(images: material.InMemory, losses: dict[str, float]) -> None:
    for name, expected in losses.items():
        loop = SourceLoop(Tapped(material.teacher()), material.head(STUDY.student(name)))
        assert sum(loop.step(images.pixels[rows]) for rows in BATCHES) / 3 == pytest.approx(expected, rel=1e-4)


def test_many_heads_in_one_pass_have_kvbenchs_losses(images: material.InMemory, losses: dict[str, float]) -> None:
    loop = HeadsLoop(Tapped(material.teacher()), [material.head(STUDY.student(name)) for name in losses])
    means = [sum(column) / 3 for column in zip(*(loop.step(images.pixels[rows]) for rows in BATCHES), strict=True)]
    assert means == pytest.approx([*losses.values()], rel=1e-4)


@pytest.mark.skipif(not contest.INSTALLED, reason=contest.ABSENT)
@pytest.mark.filterwarnings("default")  # torchdistill's and its imports' own
def test_torchdistill_has_kvbenchs_losses(images: material.InMemory, losses: dict[str, float]) -> None:
    order = torch.cat(BATCHES)
    mixed = material.InMemory(images.pixels[order], images.labels[order], images.classes)
    for name, expected in losses.items():
        loop = PeerLoop(material.teacher(), material.head(STUDY.student(name)), mixed, 32)
        assert sum(loop.step() for _ in BATCHES) / 3 == pytest.approx(expected, rel=1e-4)


def test_a_pass_in_bfloat16_gives_features_near_those_in_float32(images: material.InMemory) -> None:
    whole, half = material.passed(images), material.passed(images, half=True)
    difference = float((half.taps[-1] - whole.taps[-1]).norm() / whole.taps[-1].norm())
    assert 1e-5 < difference < 0.05
    assert half.logits.dtype == torch.bfloat16


def test_samples_are_scaled_up_by_the_steps_that_each_contestant_makes() -> None:
    result = {
        "steps": 32, "epochs": 10, "configurations": 14,
        "peers": {"unit": [1.0, 2.0, 9.0], "source": [3.0], "torchdistill": [], "heads": [4.0]},
        "pieces": {"extract": [20.0, 20.0], "extract bf16": [16.0], "train": [40.0], "train side by side": [24.0]},
    }  # fmt: skip
    whole = standing(result)
    assert whole.unit == 64
    assert whole.peers == {"source": 3 * 32 * 10 * 14, "heads": 4 * 32 * 10}
    assert whole.kvbench == {"one after another": 80, "side by side": 64, "side by side, bf16": 40}
    rows = {row.what: (row.measured, row.hit) for row in targets({"contest": result})}
    assert rows == {
        "the whole table, in plain teacher passes, two configurations side by side": (1, True),
        "the whole table, in plain teacher passes, likewise, bank in bf16": (0.625, True),
        "the whole table, in plain teacher passes, one after another": (1.25, True),
        "the source's loop / kvbench, same table": (210, True),
        "many heads / kvbench, same table": (20, True),
    }


def test_an_accelerator_has_targets_of_its_own() -> None:
    seconds = {"stacked": [1.0, 1.0], "side by side": [4.0, 4.0], "one after another": [30.0, 30.0]}
    for device, wanted in (("cpu, x86_64, 2 processors", []), ("cuda, NVIDIA H100", [(20, 30.0, True)])):
        result = {"hardware": device, "seeds": 10, "students": {"Model3": seconds}}
        assert [(row.bound, row.measured, row.hit) for row in targets({"stacked": result})] == wanted
    parts = dict.fromkeys(["teacher", "training", "render", "evaluation", "bank files", "harness"], 1.0)
    for device, hit in (("cpu", True), ("cuda", False)):
        result = {"wall": 90.0, "device": device, "parts": parts, "options": ["--kvbench-seeds", "5"]}
        assert targets({"cold": result})[1].hit == hit


def test_a_target_is_hit_on_its_own_side() -> None:
    assert Target("", 2, 2, True, "").hit
    assert not Target("", 2, 1.9, True, "").hit
    assert not Target("", 2, 2.1, False, "").hit


def test_quartiles_and_scaled_samples() -> None:
    assert quartiles([1, 3]) == (1, 3)
    assert quartiles([1, 2, 3, 4, 5]) == (2, 4)
    assert scaled([1, 2, 30], 10) == 20


def test_round_robin_takes_turns_after_a_round_for_warming_up() -> None:
    calls: list[str] = []
    seconds = round_robin({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_limits_add_up() -> None:
    assert roofline.limits(2e9, 3e9, 1e9, 1e9) == {"compute": 2, "memory": 3, "both": 5}


def test_a_steps_flops_and_bytes_are_those_of_its_matrices() -> None:
    bank = material.synthetic(64)
    run = Run(material.once("Model1"), bank, bank, 0)
    assert roofline.step_flops(run) == 2 * 2 * 64 * 512 * material.CLASSES  # forward, and the weights' gradient
    assert roofline.step_bytes(run) == (512 + 1) * material.CLASSES * 7 * 4


def test_a_cold_runs_seconds_are_divided_without_rest() -> None:
    measured = {"banks": 10.0, "render": 3.0, "teacher": 5.0, "training": 20.0, "evaluation": 1.0}
    divided = cold.divided(40.0, measured)
    assert sum(divided.values()) == 40
    assert (divided["bank files"], divided["harness"]) == (2, 9)
    assert cold.shares({"a": {"x": 1.0, "y": 3.0}, "b": {"x": 4.0, "y": 2.0}}) == {"x": 0.5, "y": 0.5}


def test_parts_are_measured_kept_and_shown_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "find_spec", lambda _: None)  # tests/slow/test_ray.py measures with it
    path = tmp_path / "results.json"
    measure(["roofline"], QUICK, path)
    results = measure(["extraction", "seeds", "stacked", "sharing", "opening"], QUICK, path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(results))
    assert [*results["parts"]] == ["roofline", "extraction", "seeds", "stacked", "sharing", "opening"]
    assert {*results["parts"]["stacked"]["result"]["students"]["Model3"]} == {
        "stacked", "side by side", "one after another",
    }  # fmt: skip
    assert len(results["parts"]["seeds"]["result"]["students"]["Model3"]["lone"]) == QUICK.rounds
    text = page(results)
    for expected in (
        "# Performance",
        "## Seeds together",
        "## Seeds stacked",
        "## The roofline",
        "## The teacher's pass",
        "| bfloat16 ",
        "| the teacher's pass in float32, share of the products' speed ",
        "| opening a bank of 0.0486 GB in 4 parts again, seconds ",
        "## Sharing work",
        "| gathering from parts / from one file ",
        "| decoding by 2 threads / by 2 processes ",
        "## Opening what is done",
        "5,000 photographs: list the files",
        "| their bank: again ",
        "| a bank of 0.0486 GB, 4 parts: again ",
        "| lone runs on one thread / 10 seeds together, Model3 ",
        "Not measured: contest, cold.",
    ):
        assert expected in text
    assert max(map(len, text.splitlines())) <= 120
    assert "Ray was not installed." in " ".join(text.split())
    seconds = {"1": {"ray": [2.25, 2.0], "alone": [2.0, 2.0]}, "2": {"ray": [1.0, 1.0], "alone": [1.0, 1.0]}}
    results["parts"]["sharing"]["result"]["workers"] = {"rows": 64, "parts": 4, "seconds": seconds}
    text = page(results)
    assert "| the pass by 1 of Ray's workers / by one process | 1.062 (1.000 to 1.125) | 30 images a" in " ".join(
        text.split()
    )
    assert max(map(len, text.splitlines())) <= 120
    rows = {row.what: row.hit for row in targets({"sharing": results["parts"]["sharing"]["result"]})}
    assert [rows[f"the pass by {count} of Ray's workers / by one process"] for count in (1, 2)] == [False, True]


def test_unknown_parts_and_mixed_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown part 'contests'"):
        measure(["contests"], QUICK, tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"scale": "full", "parts": {}}')
    with pytest.raises(UserError, match="scale full"):
        measure(["seeds"], QUICK, tmp_path / "results.json")


def test_kvbench_imports_nothing_of_it() -> None:
    program = "import sys, kvbench.harness.session, kvbench.core.trainer, kvbench.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert not {"torchdistill", "matplotlib", "benchmarks"} & {name.partition(".")[0] for name in done.stdout.split()}
