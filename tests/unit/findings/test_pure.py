"""Judging and comparing depend on the numbers alone: not on the order of rows, nor on the settings of libraries."""

from __future__ import annotations

import locale
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.judge import judge, missing
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import compare
from kvbench.reference.power import clauses_table, tolerances_table
from kvbench.reference.standing import standings
from kvbench.reference.store import Reference, load
from kvbench.reference.timing import timings
from kvbench.reference.update import rejudge, update
from kvbench.reporting.report import report
from kvbench.reporting.screen import verdict_lines
from kvbench.results import history
from tests.support import DESIGN, synthetic
from tests.support.students import student_runs

NAMES = synthetic.ALL[7:]  # constant lr
COSTS = dict.fromkeys(synthetic.ALL, 1e6)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return synthetic.reference(tmp_path_factory.mktemp("expected"), 6, 2, NAMES)


def everything(known: Reference, fresh: pd.DataFrame, rng_fingerprint: str = "here") -> dict[str, object]:
    """All that is concluded from fresh histories and a reference, by configuration or finding."""
    judged = judge(fresh, DESIGN, COSTS)
    names = [name for name in NAMES if name in history.configurations(fresh)]
    changes = verdict_changes(known, judged, names)
    return {
        **{name: repr(compare(known, fresh, name, rng_fingerprint=rng_fingerprint)) for name in names},
        "judged": [judgement.describe() for judgement in judged],
        "missing": missing(DESIGN.findings["simple-is-best"], fresh, DESIGN),
        "changes": sorted(change.describe() for change in changes),
        "timings": sorted(map(repr, timings(fresh, known.histories))),
    }


@pytest.mark.parametrize("trial", range(4))
def test_the_order_of_rows_and_configurations_decides_nothing(reference: Reference, trial: int) -> None:
    draw = np.random.default_rng(trial)
    seeds = sorted(draw.choice(12, draw.integers(1, 5), replace=False).tolist())
    fresh = synthetic.runs(seeds, NAMES, shift=float(draw.choice([0.0, 0.05])))
    fresh = fresh[draw.random(len(fresh)) > draw.choice([0.0, 0.02])]  # complete, or with a few rows lost
    expected = everything(reference, fresh)
    shuffled = fresh.iloc[draw.permutation(len(fresh))]
    recorded = reference.histories.iloc[draw.permutation(len(reference.histories))]
    replicates = reference.replicates.iloc[draw.permutation(len(reference.replicates))]
    assert everything(replace(reference, histories=recorded, replicates=replicates), shuffled) == expected
    twice = pd.concat([fresh, fresh.iloc[draw.permutation(len(fresh))]])  # a test that ran again
    assert everything(reference, twice) == expected


def set_options(values: dict[str, Any]) -> dict[str, Any]:
    """Set options of pandas, of which not every version has each; returns what they were."""
    earlier = {}
    for name, value in values.items():
        with suppress(KeyError, ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are deprecated
            earlier[name] = pd.get_option(name)
            pd.set_option(name, value)
    return earlier


@contextmanager
def strict_world() -> Iterator[None]:
    """Settings that a conftest may make."""
    options = {
        "mode.copy_on_write": True,
        "future.infer_string": int(pd.__version__.partition(".")[0]) > 2,  # before, it needs another package
        "mode.use_inf_as_na": True,
        "mode.chained_assignment": "raise",
        "display.precision": 1,
        "display.float_format": "{:.0f}".format,
        "display.max_rows": 1,
        "compute.use_numexpr": False,
        "compute.use_bottleneck": False,
    }
    earlier = locale.setlocale(locale.LC_ALL)
    with ExitStack() as stack:
        stack.callback(set_options, set_options(options))
        stack.enter_context(np.errstate(all="raise"))
        stack.enter_context(np.printoptions(precision=1, sign=" "))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8"):
            with suppress(locale.Error):
                locale.setlocale(locale.LC_ALL, name)
        try:
            yield
        finally:
            locale.setlocale(locale.LC_ALL, earlier)


def broken(kind: str) -> pd.DataFrame:
    """Runs with a fault that leaves no number somewhere."""
    frame = synthetic.runs([0, 1, 2], NAMES)
    mine = frame["configuration"].isin(["Model3", "Model1"])
    if kind == "not finite":
        frame.loc[mine & (frame["seed"] == 1) & (frame["epoch"] > 1), ["train_loss", "val_loss"]] = math.inf
    elif kind == "no number":
        frame.loc[mine & (frame["seed"] == 1), ["train_loss", "val_accuracy"]] = math.nan
    elif kind == "not measured":
        frame[["val_loss", "agreement", "seconds"]] = math.nan
    elif kind == "a metric of one configuration":
        frame.loc[mine, ["val_loss", "agreement", "seconds"]] = math.nan
    elif kind == "one seed":
        frame = frame[frame["seed"] == 0]
    elif kind == "one epoch":
        frame = frame[frame["epoch"] == 3]
    elif kind == "no spread":
        frame = pd.concat([frame[frame["seed"] == 0].assign(seed=seed) for seed in range(3)])
    elif kind == "extreme":
        frame.loc[mine, ["train_loss", "val_loss"]] = 1.7e308  # a sum of two overflows
        frame.loc[frame["configuration"] == "Model5", ["train_loss", "val_accuracy"]] = 0.0
        frame.loc[frame["configuration"] == "Model6", "train_loss"] = -1e-9
        frame["seconds"] = math.inf
    elif kind == "a configuration":
        frame = frame[~mine]
    return frame


KINDS = ["whole", "not finite", "no number", "not measured", "a metric of one configuration", "one seed", "one epoch",
         "no spread", "extreme", "a configuration"]  # fmt: skip
UNREADABLE = re.compile(r"\b(nan|inf|None|NaN|NaT)\b|(?<![\w.])-0\.?0*(?![\w.])")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_never_shown_as_one(reference: Reference, kind: str) -> None:
    fresh = broken(kind)
    one_seed = replace(reference, histories=reference.histories[reference.histories["seed"] == 0],
                       replicates=reference.replicates.iloc[:0])  # fmt: skip
    measured = replace(one_seed, histories=history.rounded(fresh))
    for known in (reference, one_seed):
        judged = judge(fresh, DESIGN, {**COSTS, "Model4": None})
        facts = {"workload": "synthetic", "teacher": None, "flops per sample": {"Model4": None}, "share": math.nan}
        changes = verdict_changes(known, judged, NAMES)
        compared = [compare(known, fresh, name, rng_fingerprint="here") for name in NAMES]
        stood = standings(known, judged, changes)
        texts = [*(judgement.describe() for judgement in judged),
                 *(change.describe() for change in changes),
                 *(text for one in compared for text in (one.brief, one.describe())),
                 *(line.text for line in verdict_lines(stood, DESIGN, 20)),
                 report(fresh, DESIGN, judged, facts, None, timings(fresh, known.histories), stood, compared),
                 tolerances_table(measured, 4, 1.05, 0.01, ["Model1"]),
                 clauses_table(known, 4, 1.05, 0.01)]  # fmt: skip
        for text in texts:
            assert (found := UNREADABLE.search(text)) is None, text[max(0, found.start() - 200) : found.end() + 100]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_the_process_change_no_number_and_no_text(reference: Reference, kind: str) -> None:
    fresh = broken(kind)
    expected = everything(reference, fresh)
    plain = report(fresh, DESIGN, judge(fresh, DESIGN, COSTS), {"workload": "synthetic"})
    with strict_world():
        assert everything(reference, fresh) == expected
        assert report(fresh, DESIGN, judge(fresh, DESIGN, COSTS), {"workload": "synthetic"}) == plain


def test_settings_of_the_process_change_no_byte_of_a_reference(tmp_path: Path) -> None:
    for folder in ("plain", "strict"):
        with ExitStack() as stack:
            if folder == "strict":
                stack.enter_context(strict_world())
            known = synthetic.reference(tmp_path / folder, 4, 2, NAMES)
            again = synthetic.runs([0, 1], ["Model3"], shift=0.1)
            update(tmp_path / folder, "synthetic", DESIGN, again, {"random_numbers": "here"})
            rejudge(tmp_path / folder, "synthetic", DESIGN)
            assert load(tmp_path / folder, "synthetic", DESIGN).recorded["verdict"].notna().all()
    for name in ("histories.csv", "verdicts.csv", "replicates.csv", "provenance.json"):
        plain, strict = ((tmp_path / folder / known.workload / name).read_bytes() for folder in ("plain", "strict"))
        assert plain == strict


def test_judging_takes_and_leaves_no_random_state() -> None:
    frame = student_runs(seeds=20, noise=0.1)  # so many that sign flips are drawn
    texts = []
    for seed in (0, 1):
        np.random.seed(seed)
        before = np.random.get_state()[1].tolist()  # type: ignore[index]
        texts.append([judgement.describe() for judgement in judge(frame, DESIGN)])
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    assert texts[0] == texts[1]
    assert any("sign flips" in text for text in texts[0])
