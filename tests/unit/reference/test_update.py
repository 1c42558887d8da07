from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kvbench.findings.finding import Finding
from kvbench.findings.judge import judge
from kvbench.findings.vocabulary import above
from kvbench.reference.changes import verdict_changes
from kvbench.reference.store import load
from kvbench.reference.update import rejudge, update
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN
from tests.support.references import MEMORY, PRINTS, edit, memory_runs, perturbed


@pytest.fixture
def folder(memory_folder: Path) -> Path:
    return memory_folder


def test_an_update_merges_and_tells_what_changed(folder: Path) -> None:
    before = load(folder, "fractals", DESIGN)
    fresh = memory_runs(["Model5", "Model9"], shift=0.5)
    text = update(folder, "fractals", DESIGN, fresh, {"fingerprints": PRINTS, "note": "x"})
    after = load(folder, "fractals", DESIGN)
    assert history.configurations(after.histories) == [*MEMORY, "Model9"]
    for name in ("Model3", "Model4", "Model6"):
        one, other = (
            side.histories[side.histories["configuration"] == name].reset_index(drop=True) for side in (before, after)
        )
        pd.testing.assert_frame_equal(one, other)
    assert f"Reference written to {folder / 'fractals'}" in text
    assert "new      Model9: train_loss" in text
    assert "changed  Model5: train_loss 0.4" in text
    assert "verdict  gelu-beats-relu (constant lr), Model3-Model5-loss: holds -> fails" in text
    assert "3 configurations unchanged" in text
    # What the other configurations were made with still stands; the update is told beside it.
    assert "note" not in after.provenance
    assert after.provenance["partial_updates"][-1]["note"] == "x"
    assert after.provenance["partial_updates"][-1]["configurations"] == ["Model5", "Model9"]
    assert after.provenance["epochs"] == [1, 2, 3]
    assert sorted(path.name for path in (folder / "fractals").iterdir()) == [
        "histories.csv",
        "provenance.json",
        "verdicts.csv",
    ]


def test_a_first_reference_is_told_without_what_would_have_changed(tmp_path: Path) -> None:
    text = update(tmp_path, "fractals", DESIGN, memory_runs(), {})
    assert [line.split()[0] for line in text.splitlines()] == ["Reference", *["new"] * len(MEMORY), "clauses"]


def test_an_update_with_other_seconds_alone_changes_nothing_to_tell(folder: Path) -> None:
    fresh = memory_runs()
    fresh["seconds"] += 1
    text = update(folder, "fractals", DESIGN, fresh, {"fingerprints": PRINTS})
    assert "4 configurations unchanged" in text
    assert "changed " not in text


def test_a_full_update_removes_what_was_not_run(folder: Path) -> None:
    fresh = memory_runs(["Model3"])
    text = update(folder, "fractals", DESIGN, fresh, {"fingerprints": {"teacher": "new"}}, full=True)
    assert history.configurations(load(folder, "fractals", DESIGN).histories) == ["Model3"]
    assert "removed  Model4" in text
    assert "Model3-Model5-loss: holds -> no longer judged" in text


def test_seeds_may_differ_after_a_partial_update(folder: Path) -> None:
    update(folder, "fractals", DESIGN, memory_runs(["Model5"], seeds=2), {"fingerprints": PRINTS})
    after = load(folder, "fractals", DESIGN)
    assert after.provenance["seeds"] == {name: [0, 1] if name == "Model5" else [0, 1, 2, 3, 4] for name in MEMORY}
    assert set(after.recorded["n"]) == {2}  # pairs need a seed on both sides


def test_costs_are_kept_for_the_reports(folder: Path) -> None:
    update(
        folder, "fractals", DESIGN, memory_runs(["Model3"]), {"fingerprints": PRINTS, "flops_per_sample": {"Model3": 7}}
    )
    update(
        folder, "fractals", DESIGN, memory_runs(["Model4"]), {"fingerprints": PRINTS, "flops_per_sample": {"Model4": 8}}
    )
    assert load(folder, "fractals", DESIGN).costs == {"Model3": 7.0, "Model4": 8.0}


@pytest.mark.parametrize(
    ("fresh", "facts", "said"),
    [
        (
            memory_runs(["Model5"]),
            {"fingerprints": {**PRINTS, "teacher": "new"}},
            "teacher (new, recorded aaaaaaaaaaaa...)",
        ),
        (memory_runs(["Model5"], epochs=4), {"fingerprints": PRINTS}, "the run has 4 epochs, the reference 3"),
        (memory_runs().drop(index=[4]), {"fingerprints": PRINTS}, "Model3 lacks seed 1, epoch 2"),
        (memory_runs().assign(train_loss=math.nan), {"fingerprints": PRINTS}, "train_loss is nan"),
        (history.frame([]), {}, "holds no rows"),
    ],
)
def test_an_update_that_would_not_fit_writes_nothing(
    folder: Path, fresh: pd.DataFrame, facts: dict[str, object], said: str
) -> None:
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(UserError) as error:
        update(folder, "fractals", DESIGN, fresh, facts)
    assert said in str(error.value)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


# Replicates


def with_replicates(
    folder: Path, names: Sequence[str] = MEMORY, *, rng_fingerprint: str = "abc", full: bool = False
) -> None:
    """Update some configurations, with replicates of their first four seeds."""
    facts = {"fingerprints": PRINTS, "random_numbers": rng_fingerprint}
    update(folder, "fractals", DESIGN, memory_runs(names), facts, replicates=perturbed(memory_runs(names)), full=full)


def replicates_of(folder: Path) -> list[str]:
    """The configurations that have replicates."""
    return history.configurations(load(folder, "fractals", DESIGN).replicates)


def test_replicates_are_written_beside_the_histories_as_a_file_holds_them(folder: Path) -> None:
    assert not (folder / "fractals" / "replicates.csv").exists()
    with_replicates(folder)
    after = load(folder, "fractals", DESIGN)
    pd.testing.assert_frame_equal(after.replicates, history.rounded(perturbed(memory_runs())))
    assert after.rng_fingerprint == "abc"
    written = (folder / "fractals" / "replicates.csv").read_bytes()
    with_replicates(folder)
    assert (folder / "fractals" / "replicates.csv").read_bytes() == written


def test_a_partial_update_replaces_its_own_replicates_and_keeps_the_others(folder: Path) -> None:
    with_replicates(folder)
    before = load(folder, "fractals", DESIGN).replicates
    fresh = memory_runs(["Model5"], shift=0.9)
    new = perturbed(fresh, seeds=2)
    update(folder, "fractals", DESIGN, fresh, {"fingerprints": PRINTS, "random_numbers": "abc"}, replicates=new)
    after = load(folder, "fractals", DESIGN).replicates
    assert history.configurations(after) == list(MEMORY)
    for name in MEMORY:
        expected = history.rounded(new) if name == "Model5" else before[before["configuration"] == name]
        pd.testing.assert_frame_equal(
            after[after["configuration"] == name].reset_index(drop=True), expected.reset_index(drop=True)
        )


def test_a_new_configuration_brings_its_replicates_with_it(folder: Path) -> None:
    with_replicates(folder)
    with_replicates(folder, ["Model9"])
    assert replicates_of(folder) == [*MEMORY, "Model9"]


def test_a_full_update_without_replicates_removes_them(folder: Path) -> None:
    with_replicates(folder)
    update(folder, "fractals", DESIGN, memory_runs(), {"fingerprints": PRINTS}, full=True)
    assert not (folder / "fractals" / "replicates.csv").exists()
    assert load(folder, "fractals", DESIGN).replicates.empty


def test_a_full_update_removes_the_replicates_of_what_was_not_run(folder: Path) -> None:
    with_replicates(folder)
    with_replicates(folder, ["Model3", "Model4"], full=True)
    assert replicates_of(folder) == ["Model3", "Model4"]


def test_a_partial_update_without_replicates_leaves_those_of_the_others(folder: Path) -> None:
    with_replicates(folder)
    update(folder, "fractals", DESIGN, memory_runs(["Model5"]), {"fingerprints": PRINTS, "random_numbers": "abc"})
    assert replicates_of(folder) == ["Model3", "Model4", "Model6"]


def test_configurations_that_draw_other_random_numbers_can_not_join_the_reference(folder: Path) -> None:
    with_replicates(folder)
    with pytest.raises(UserError, match="random"):
        with_replicates(folder, ["Model5"], rng_fingerprint="other")


@pytest.mark.parametrize(
    ("replicates", "said"),
    [
        (perturbed(memory_runs()).assign(train_loss=math.nan), "train_loss is nan"),
        (perturbed(memory_runs()).drop(index=[4]), "lacks seed 1, epoch 2"),
        (perturbed(memory_runs(first=7)), "seed 7"),
        (perturbed(memory_runs(["Model9"])), "Model9"),
        (perturbed(memory_runs(epochs=4)), "epoch"),
    ],
)
def test_replicates_that_do_not_fit_are_refused_and_nothing_is_written(
    folder: Path, replicates: pd.DataFrame, said: str
) -> None:
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(UserError) as error:
        update(folder, "fractals", DESIGN, memory_runs(shift=0.9), {"fingerprints": PRINTS}, replicates=replicates)
    assert said in str(error.value)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_written_files_are_stable(folder: Path) -> None:
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    again = load(folder, "fractals", DESIGN)
    update(folder, "fractals", DESIGN, again.histories, {"fingerprints": PRINTS})
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert json.loads(before["provenance.json"])["seeds"] == [0, 1, 2, 3, 4]


# What is not complete


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[rows["epoch"] < 3], "Model3 lacks seed 0, epoch 3"),  # stopped early, every run alike
        (lambda rows: rows[rows["epoch"] > 1], "Model3 lacks seed 0, epoch 1"),
        (lambda rows: rows[rows["seed"] != 4], "Model3 lacks seed 4"),
        (lambda rows: rows[(rows["configuration"] != "Model5") | (rows["seed"] != 2)], "Model5 lacks seed 2"),
        (lambda rows: rows.assign(train_loss=rows["train_loss"].where(rows["seed"] < 4)), "train_loss is nan"),
        (lambda rows: rows.assign(val_loss=rows["val_loss"].where(rows["seed"] < 4, math.inf)), "val_loss is inf"),
        (
            lambda rows: rows.assign(val_loss=rows["val_loss"].where(rows["seed"] < 4)),
            "no val_loss in 3 of 15 rows",
        ),
        (lambda rows: rows.iloc[:0], "the run holds no rows"),
    ],
)
def test_no_reference_is_written_from_incomplete_histories(
    folder: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    before = {path: path.read_bytes() for path in (folder / "fractals").iterdir()}
    for name in ("fractals", "other"):
        with pytest.raises(UserError, match=said):
            update(
                folder, name, DESIGN, spoil(memory_runs(shift=2)), {"fingerprints": PRINTS}, seeds=range(5), epochs=3
            )
    assert {path: path.read_bytes() for path in (folder / "fractals").iterdir()} == before
    assert not (folder / "other").exists()


def test_an_unknown_cost_is_null_in_a_reference(folder: Path) -> None:
    costs = {"Model3": 7, "Model4": None, "Model5": None, "Model6": 9}
    update(folder, "fractals", DESIGN, memory_runs(), {"flops_per_sample": costs})
    assert load(folder, "fractals", DESIGN).provenance["flops_per_sample"] == costs
    assert load(folder, "fractals", DESIGN).costs == {"Model3": 7.0, "Model6": 9.0}
    update(folder, "fractals", DESIGN, memory_runs(["Model4"]), {"flops_per_sample": {"Model4": 8}})
    assert load(folder, "fractals", DESIGN).costs == {"Model3": 7.0, "Model4": 8.0, "Model6": 9.0}


# Judging again


def test_rejudging_writes_what_the_recorded_histories_say_and_nothing_else(folder: Path) -> None:
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    counts = "clauses now: 5 holds, 2 undecided, 1 fails"
    assert rejudge(folder, "fractals", DESIGN) == f"Verdicts written to {home / 'verdicts.csv'}:\n  {counts}"
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    edit(home / "verdicts.csv", "Model3-Model5-loss,holds", "Model3-Model5-loss,fails")
    old = "a-finding-of-old,constant lr,a-clause"
    edit(home / "verdicts.csv", "gelu-beats-relu,constant lr,Model4-Model6-loss", old)
    assert rejudge(folder, "fractals", DESIGN).splitlines()[1:-1] == [
        "  verdict  gelu-beats-relu (constant lr), Model3-Model5-loss: fails -> holds",
        "  verdict  a-finding-of-old (constant lr), a-clause: holds -> no longer judged",
        "  verdict  gelu-beats-relu (constant lr), Model4-Model6-loss: not recorded -> holds",
    ]
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    (home / "verdicts.csv").unlink()
    assert "not recorded -> holds" in rejudge(folder, "fractals", DESIGN)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_a_finding_that_was_added_is_recorded_by_rejudging(folder: Path) -> None:
    row = Finding("an-addition", "Model3 is better", above("Model3", "Model6"))
    design = replace(DESIGN, findings={**DESIGN.findings, row.id: row})
    fresh = judge(memory_runs(), design)
    known = load(folder, "fractals", design)
    assert [change.status for change in verdict_changes(known, fresh, MEMORY)] == ["missing"]
    told = rejudge(folder, "fractals", design)
    assert "an-addition (constant lr), Model3-Model6-accuracy: not recorded -> holds" in told
    assert verdict_changes(load(folder, "fractals", design), fresh, MEMORY) == []


def test_only_a_reference_in_the_folder_is_judged_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no .*imagenet/histories.csv: nothing to judge again"):
        rejudge(tmp_path, "imagenet", DESIGN)
    assert not (tmp_path / "imagenet").exists()
