import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvbench import history, reference, verdicts
from kvbench.comparison import FAMILY_ERROR, GATES, LOSS_FLOOR, SHARE_FLOOR
from kvbench.errors import UserError
from kvbench.findings import finding, judge, judge_all
from kvbench.statistics import prediction_interval

EXPECTED = Path(__file__).parents[1] / "expected"
UPDATE = "pytest benchmarks/ --kvbench-workload fractals --kvbench-seeds 8 --kvbench-update-expected"
MEMORY = ("Model3", "Model4", "Model5", "Model6")  # enough for two findings
LAST = {"Model3": 0.30, "Model4": 0.31, "Model5": 0.40, "Model6": 0.42}
PRINTS = {"teacher": "a" * 64, "data": "b" * 64}


def made(names=MEMORY, seeds=5, *, first=0, epochs=3, shift=1.0, noise=0.01):
    """Falling curves with all metrics; ``shift`` multiplies training losses."""
    spread = np.random.default_rng(first)
    rows = []
    for name in names:
        for seed in range(first, first + seeds):
            wobble = math.exp(noise * spread.normal())
            for epoch in range(1, epochs + 1):
                loss = LAST.get(name, 0.5) * 2 ** (epochs - epoch) * wobble
                rows.append(
                    {
                        "configuration": name,
                        "seed": seed,
                        "epoch": epoch,
                        "train_loss": loss * shift,
                        "val_loss": loss * 1.1,
                        "val_accuracy": 1 - LAST.get(name, 0.5) - 0.02 * (epochs - epoch) + noise * spread.normal() / 5,
                        "agreement": 0.9 + noise * spread.normal() / 5,
                        "seconds": 1.0 + spread.random(),
                    }
                )
    return history.frame(rows)


@pytest.fixture
def folder(tmp_path):
    reference.update(tmp_path, "fractals", made(), {"fingerprints": PRINTS})
    return tmp_path


@pytest.fixture
def recorded(folder):
    return reference.load(folder, "fractals")


# Loading


def test_every_shipped_reference_loads_and_its_verdicts_are_what_its_histories_say():
    assert "imagenet" in reference.available(EXPECTED)
    for workload in reference.available(EXPECTED):
        shipped = reference.load(EXPECTED, workload)
        judged = judge_all(shipped.histories, shipped.costs)
        names = history.configurations(shipped.histories)
        changes = reference.verdict_changes(shipped, judged, names)
        assert [change.describe() for change in changes] == []
        assert len(shipped.recorded) == sum(len(j.gating) for j in judged)


def test_the_published_table_is_whole_and_says_what_is_known():
    published = reference.load(EXPECTED, "imagenet")
    assert len(published.histories) == 70
    assert published.histories[["train_loss", "val_accuracy"]].notna().all().all()
    assert published.histories[["val_loss", "agreement", "seconds"]].isna().all().all()
    assert published.epochs_reported == history.epochs(published.histories) == [1, 2, 3, 5, 10]
    assert "optimiser" in published.provenance["unknown"]


def test_a_missing_reference_names_the_folder_and_the_command_that_records_one(folder):
    with pytest.raises(UserError) as error:
        reference.load(folder, "tiny-imagenet")
    assert str(folder) in str(error.value)
    assert "there: fractals" in str(error.value)
    assert "pytest benchmarks/ --kvbench-workload tiny-imagenet --kvbench-seeds 8 --kvbench-update-expected" in str(
        error.value
    )
    assert reference.available(folder / "nowhere") == []


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("histories.csv", "Model3,0,1,", "Model3,0,1.5,", "epoch is '1.5'"),
        ("histories.csv", "Model3,0,1,", "Model3,7,1,", "Model3 lacks seed 0, epoch 1"),
        ("histories.csv", "configuration,", "name,", "unknown columns name"),
        ("verdicts.csv", "gelu-beats-relu", "gelu-beat-relu", "Unknown finding 'gelu-beat-relu'. Did you mean"),
        ("verdicts.csv", "constant lr", "no lr", "Unknown recipe 'no lr'"),
        ("verdicts.csv", ",holds,", ",hold,", "Unknown verdict 'hold'"),
        ("verdicts.csv", "verdict,margin", "margin,verdict", "valid: finding, recipe, clause, verdict"),
        ("verdicts.csv", ",holds,", ",holds,x", "margin holds something that is not a number"),
        ("verdicts.csv", "Model3-Model5-loss", "Model4-Model6-loss", "a clause twice"),
        ("provenance.json", "{", "", "can't be read as JSON"),
        ("provenance.json", '"seeds": [', '"seeds": ["x", ', "seeds is ['x', 0"),
        ("provenance.json", '"seeds"', '"sedes"', "seeds is None"),
        ("provenance.json", '"epochs": [', '"epochs": [4, ', "Model3 lacks seed 0, epoch 4"),
        ("provenance.json", '"epochs": [', '"epochs_reported": [1.5,', "epochs_reported is [1.5, 1"),
        ("provenance.json", '"fingerprints": {', '"flops_per_sample": [],\n "fingerprints": {', "valid is an object"),
        ("provenance.json", '"fingerprints": {', '"flops_per_sample": {"a": "b"},\n "fingerprints": {', "not a number"),
    ],
)
def test_a_damaged_reference_is_refused_in_a_sentence_that_names_the_file(folder, file, old, new, said):
    path = folder / "fractals" / file
    edit(path, old, new)
    with pytest.raises(UserError) as error:
        reference.load(folder, "fractals")
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["verdicts.csv", "provenance.json"])
def test_a_missing_file_is_named(folder, file):
    (folder / "fractals" / file).unlink()
    with pytest.raises(UserError, match=f"There is no file .*{file}"):
        reference.load(folder, "fractals")


@pytest.mark.parametrize(("file", "content"), [("verdicts.csv", b""), ("provenance.json", b"[]")])
def test_an_empty_file_is_told(folder, file, content):
    (folder / "fractals" / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        reference.load(folder, "fractals")


def test_a_row_that_vanished_from_the_reference_is_named(folder):
    path = folder / "fractals" / "histories.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("Model4,3,2,")))
    with pytest.raises(UserError, match="Model4 lacks seed 3, epoch 2"):
        reference.load(folder, "fractals")


# Comparing


def test_the_same_curves_pass_and_so_do_other_seeds(recorded):
    for fresh in (made(), made(seeds=3, first=100)):
        for name in MEMORY:
            comparison = reference.compare(recorded, fresh, name, PRINTS)
            assert not comparison.failed, comparison.describe()
            assert comparison.judged
            assert [outcome.verdict for outcome in comparison.outcomes] == ["within"] * len(GATES)
            assert f"{name} on fractals: within the reference" in comparison.describe()


def test_false_alarms_are_as_rare_as_promised():
    alarms = 0
    for trial in range(60):
        histories = made(seeds=5, first=1000 * trial)
        known = reference.Reference("fractals", Path(), histories, verdicts.frame([]), {}, "pytest")
        fresh = made(seeds=3, first=1000 * trial + 500)
        alarms += any(reference.compare(known, fresh, name).failed for name in MEMORY)
    assert alarms <= 3  # 60 runs at 1%: 4 or more have a chance below 1 in 300


def test_a_shifted_loss_fails_and_names_its_gates(recorded):
    comparison = reference.compare(recorded, made(shift=1.3), "Model3", PRINTS)
    assert comparison.failed
    moved = [outcome.gate.name for outcome in comparison.outcomes if outcome.failed]
    assert moved == ["train_loss, whole curve", "train_loss, last epoch"]
    text = comparison.describe()
    assert "train_loss, whole curve; train_loss, last epoch are outside the reference" in text
    (line,) = [line for line in text.splitlines() if "train_loss, last epoch" in line and "MOVED" in line]
    assert line.startswith(">>")
    assert "+30.00%" in line
    assert UPDATE in text


@pytest.mark.parametrize(("metric", "change"), [("val_loss", 0.1), ("val_accuracy", -0.05), ("agreement", -0.05)])
def test_a_shift_of_each_other_metric_fails_its_gate_alone(recorded, metric, change):
    fresh = made()
    fresh[metric] += change
    outcomes = reference.compare(recorded, fresh, "Model4").outcomes
    assert [outcome.gate.metric for outcome in outcomes if outcome.failed] == [metric]


def test_a_curve_that_ends_right_but_gets_there_otherwise_fails_the_curve_gate(recorded):
    fresh = made()
    fresh.loc[fresh["epoch"] == 2, "train_loss"] *= 1.5
    outcomes = reference.compare(recorded, fresh, "Model3").outcomes
    assert [outcome.gate.name for outcome in outcomes if outcome.failed] == ["train_loss, whole curve"]


def test_seconds_are_never_compared(recorded):
    fresh = made()
    fresh["seconds"] *= 100
    comparison = reference.compare(recorded, fresh, "Model3")
    assert not comparison.failed
    assert "seconds" not in comparison.describe()


def test_the_allowed_interval_is_students_over_all_gates_widened_by_the_floor(recorded):
    fresh = made(seeds=2)
    outcomes = {o.gate.name: o for o in reference.compare(recorded, fresh, "Model3").outcomes}
    last = made()[lambda rows: (rows["configuration"] == "Model3") & (rows["epoch"] == 3)]
    level = 1 - FAMILY_ERROR / (5 * 4)  # five gates of four configurations
    low, high = prediction_interval(np.log(last["train_loss"]), 2, level)
    found = outcomes["train_loss, last epoch"]
    np.testing.assert_allclose(np.log([found.low, found.high]), [low - LOSS_FLOOR, high + LOSS_FLOOR], atol=1e-5)
    low, high = prediction_interval(last["val_accuracy"], 2, level)
    found = outcomes["val_accuracy, last epoch"]
    np.testing.assert_allclose([found.low, found.high], [low - SHARE_FLOOR, high + SHARE_FLOOR], atol=1e-5)


def test_the_floor_lets_rounding_pass_where_seeds_do_not_spread(tmp_path):
    reference.update(tmp_path, "fractals", made(noise=0.0), {})
    known = reference.load(tmp_path, "fractals")
    assert not reference.compare(known, made(noise=0.0, shift=1.0005), "Model3").failed
    assert reference.compare(known, made(noise=0.0, shift=1.002), "Model3").failed


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (lambda rows: (rows["seed"] == 1) & (rows["epoch"] == 2), "Model3 lacks seed 1, epoch 2"),
        (lambda rows: rows["epoch"] == 3, "Model3 lacks seed 0, epoch 3"),
        (lambda rows: rows["seed"] == 4, "Model3 lacks seed 4"),
        (lambda rows: rows["configuration"] == "Model3", "the run has no rows of Model3"),
    ],
)
def test_a_vanished_row_fails(recorded, drop, said):
    fresh = made()
    comparison = reference.compare(recorded, fresh[~drop(fresh)], "Model3", seeds=range(5))
    assert comparison.failed
    assert not comparison.judged
    assert comparison.outcomes == ()
    assert said in comparison.describe()


def test_an_extra_epoch_an_extra_seed_and_an_unknown_configuration_fail(recorded):
    assert "Model3 has, beyond what is expected, seed 0, epoch 4" in "".join(
        reference.compare(recorded, made(epochs=4), "Model3").problems
    )
    extra = reference.compare(recorded, made(), "Model3", seeds=[0, 1, 2, 3])
    assert extra.problems == ("Model3 has, beyond what is expected, seed 4",)
    stranger = reference.compare(recorded, made(["Model9"]), "Model9")
    assert stranger.failed
    assert "has no configuration Model9" in stranger.describe()
    assert UPDATE in stranger.describe()
    assert reference.compare(recorded, history.frame([]), "Model3").failed


def test_a_full_run_is_compared_configuration_by_configuration_both_ways(recorded):
    assert recorded.absent(MEMORY) == []
    assert recorded.absent(["Model3", "Model4", "Model5", "Model9"]) == [
        "Model6 is in the reference but was not run",
        "Model9 was run but is not in the reference",
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["train_loss", "val_loss", "val_accuracy", "agreement"])
def test_a_number_that_is_none_fails(recorded, metric, bad):
    fresh = made()
    if metric in history.SHARES and math.isinf(bad):
        bad = math.nan
    fresh.loc[(fresh["seed"] == 2) & (fresh["epoch"] == 3), metric] = bad
    comparison = reference.compare(recorded, fresh, "Model3")
    assert comparison.failed
    assert {outcome.gate.metric for outcome in comparison.outcomes if outcome.failed} == {metric}
    assert "NO NUMBER" in comparison.describe()


def test_what_one_side_did_not_measure_is_said(recorded):
    fresh = made()
    fresh[["val_loss", "agreement"]] = math.nan
    comparison = reference.compare(recorded, fresh, "Model3")
    assert not comparison.failed
    assert "not compared, as one side did not measure it: val_loss, last epoch; agreement, last epoch" in (
        comparison.describe()
    )


def test_one_reference_seed_is_not_judged_but_shown(tmp_path):
    reference.update(tmp_path, "fractals", made(seeds=1), {})
    comparison = reference.compare(reference.load(tmp_path, "fractals"), made(seeds=1, shift=9.0), "Model3")
    assert not comparison.failed
    assert not comparison.judged
    text = comparison.describe()
    assert "not judged: one reference seed" in text
    assert "within" not in text
    assert "+800.00%" in text


def test_few_reference_seeds_are_told(tmp_path):
    reference.update(tmp_path, "fractals", made(seeds=3), {})
    comparison = reference.compare(reference.load(tmp_path, "fractals"), made(seeds=3), "Model3")
    assert "only 3 reference seeds" in comparison.describe()


def test_other_fingerprints_fail_by_name_instead_of_numbers(recorded):
    other = {**PRINTS, "teacher": "c" * 64, "pooling": ("global", 1)}
    comparison = reference.compare(recorded, made(), "Model3", other)
    assert comparison.failed
    assert comparison.outcomes == ()
    assert "teacher (cccccccccccc..., recorded aaaaaaaaaaaa...), pooling" in comparison.describe()
    assert "data (" not in comparison.describe()
    assert not reference.compare(recorded, made(), "Model3", {}).failed


def test_fingerprints_are_compared_as_json_has_them(tmp_path):
    prints = {"taps": ("layer3.1", "layer4.0")}
    reference.update(tmp_path, "fractals", made(), {"fingerprints": prints})
    assert not reference.compare(reference.load(tmp_path, "fractals"), made(), "Model3", prints).failed


def test_a_published_table_is_compared_at_its_epochs(recorded):
    old = made(epochs=4)
    published = replace(recorded, histories=old[old["epoch"] != 3], provenance={"epochs_reported": [1, 2, 4]})
    assert not reference.compare(published, made(epochs=4), "Model3").failed
    assert reference.compare(published, made(epochs=5), "Model3").failed
    lacking = made(epochs=4)
    assert reference.compare(published, lacking[lacking["epoch"] != 2], "Model3").failed


def test_all_epochs_are_shown_with_gates_marked(recorded):
    text = reference.compare(recorded, made(shift=1.3), "Model3").describe()
    table = text[text.index("All epochs") :].splitlines()
    assert table[1].split() == ["epoch", "train_loss", "val_loss", "val_accuracy", "agreement"]
    assert [line.split()[0] for line in table[3:6]] == ["1", "2", "3"]
    assert table[5].count("*") == 4
    assert table[4].count("*") == 0


# Verdicts


def gelu(frame):
    return judge(finding("gelu-beats-relu"), frame)


def test_the_same_verdicts_are_no_change(recorded):
    assert reference.verdict_changes(recorded, judge_all(made()), MEMORY) == []


def change(frame, known):
    (found,) = [c for c in reference.verdict_changes(known, gelu(frame), MEMORY) if c.clause == "Model3-Model5-loss"]
    return found


def relu(frame, factor):
    frame = frame.copy()
    frame.loc[frame["configuration"] == "Model5", "train_loss"] *= factor
    return frame


def test_a_clause_that_turns_fails_the_run(recorded):
    found = change(relu(made(), 0.5), recorded)
    assert (found.kind, found.failed, found.unconfirmed) == ("changed", True, False)
    assert "gelu-beats-relu (constant lr), Model3-Model5-loss: recorded as holds, now fails" in found.describe()
    assert "0.200 (Model5)" in found.describe()
    assert UPDATE in found.describe()


def test_a_clause_that_fresh_seeds_can_not_tell_asks_for_more(recorded):
    close = relu(made(seeds=3, noise=0.2, first=7), 0.75)
    found = change(close, recorded)
    assert (found.kind, found.failed, found.unconfirmed) == ("not confirmed", False, True)
    assert "add seeds: pytest benchmarks/ --kvbench-workload fractals --kvbench-seeds 6" in found.describe()


def test_one_seed_does_not_overturn_several(recorded):
    assert change(relu(made(seeds=1), 0.5), recorded).kind == "not confirmed"


def test_one_seed_overturns_one(tmp_path):
    reference.update(tmp_path, "fractals", made(seeds=1), {})
    assert change(relu(made(seeds=1), 0.5), reference.load(tmp_path, "fractals")).kind == "changed"


def test_a_clause_without_a_number_fails(recorded):
    found = change(relu(made(), math.nan), recorded)
    assert found.failed
    assert "a number is missing" in found.describe()


def test_what_was_undecided_is_only_noted(folder):
    edit(folder / "fractals" / "verdicts.csv", "Model3-Model5-loss,holds", "Model3-Model5-loss,undecided")
    found = change(made(), reference.load(folder, "fractals"))
    assert (found.kind, found.failed, found.unconfirmed) == ("noted", False, False)


def test_a_clause_that_is_not_recorded_fails(recorded):
    fewer = replace(recorded, recorded=recorded.recorded.query("clause != 'Model3-Model5-loss'"))
    found = change(made(), fewer)
    assert found.failed
    assert "not recorded; it is now holds" in found.describe()


def test_a_recorded_clause_that_is_not_judged_fails(recorded):
    (judgement,) = gelu(made())
    fewer = replace(judgement, clauses=judgement.clauses[1:])
    (found,) = reference.verdict_changes(recorded, [fewer])
    assert found.failed
    assert "recorded as holds, and not judged though its configurations are there" in found.describe()


def test_a_recipe_that_was_not_run_is_no_change(tmp_path):
    both = made([*(f"lr_{name}" for name in MEMORY), *MEMORY])
    reference.update(tmp_path, "fractals", both, {})
    known = reference.load(tmp_path, "fractals")
    half = both[~both["configuration"].str.startswith("lr_")]
    assert reference.verdict_changes(known, gelu(half), MEMORY) == []
    everything = history.configurations(both)
    assert len(reference.verdict_changes(known, gelu(half), everything)) == 4  # run, and yet not judged


# Updating


def test_an_update_merges_and_tells_what_changed(folder):
    before = reference.load(folder, "fractals")
    fresh = made(["Model5", "Model9"], shift=0.5)
    text = reference.update(folder, "fractals", fresh, {"fingerprints": PRINTS, "note": "x"})
    after = reference.load(folder, "fractals")
    assert history.configurations(after.histories) == [*MEMORY, "Model9"]
    for name in ("Model3", "Model4", "Model6"):
        pd.testing.assert_frame_equal(*(
            side.histories[side.histories["configuration"] == name].reset_index(drop=True) for side in (before, after)
        ))  # fmt: skip
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


def test_an_update_with_other_seconds_alone_changes_nothing_to_tell(folder):
    fresh = made()
    fresh["seconds"] += 1
    text = reference.update(folder, "fractals", fresh, {"fingerprints": PRINTS})
    assert "4 configurations unchanged" in text
    assert "changed " not in text


def test_a_full_update_removes_what_was_not_run(folder):
    fresh = made(["Model3"])
    text = reference.update(folder, "fractals", fresh, {"fingerprints": {"teacher": "new"}}, full=True)
    assert history.configurations(reference.load(folder, "fractals").histories) == ["Model3"]
    assert "removed  Model4" in text
    assert "Model3-Model5-loss: holds -> no longer judged" in text


def test_seeds_may_differ_after_a_partial_update(folder):
    reference.update(folder, "fractals", made(["Model5"], seeds=2), {"fingerprints": PRINTS})
    after = reference.load(folder, "fractals")
    assert after.provenance["seeds"] == {name: [0, 1] if name == "Model5" else [0, 1, 2, 3, 4] for name in MEMORY}
    assert set(after.recorded["n"]) == {2}  # pairs need a seed on both sides


def test_costs_are_kept_for_the_reports(folder):
    reference.update(folder, "fractals", made(["Model3"]), {"fingerprints": PRINTS, "flops_per_sample": {"Model3": 7}})
    reference.update(folder, "fractals", made(["Model4"]), {"fingerprints": PRINTS, "flops_per_sample": {"Model4": 8}})
    assert reference.load(folder, "fractals").costs == {"Model3": 7.0, "Model4": 8.0}


@pytest.mark.parametrize(
    ("fresh", "facts", "said"),
    [
        (made(["Model5"]), {"fingerprints": {**PRINTS, "teacher": "new"}}, "teacher (new, recorded aaaaaaaaaaaa...)"),
        (made(["Model5"], epochs=4), {"fingerprints": PRINTS}, "the run has 4 epochs, the reference 3"),
        (made().drop(index=[4]), {"fingerprints": PRINTS}, "Model3 lacks seed 1, epoch 2"),
        (made().assign(train_loss=math.nan), {"fingerprints": PRINTS}, "train_loss is nan"),
        (history.frame([]), {}, "holds no rows"),
    ],
)
def test_an_update_that_would_not_fit_writes_nothing(folder, fresh, facts, said):
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(UserError) as error:
        reference.update(folder, "fractals", fresh, facts)
    assert said in str(error.value)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_written_files_are_stable(folder):
    home = folder / "fractals"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    again = reference.load(folder, "fractals")
    reference.update(folder, "fractals", again.histories, {"fingerprints": PRINTS})
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert json.loads(before["provenance.json"])["seeds"] == [0, 1, 2, 3, 4]
