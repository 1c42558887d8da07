"""What the page of faults says of a run that leaves no number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kvbench.mutation.faults import FAULTS
from kvbench.mutation.injector import FaultResult
from kvbench.mutation.report import detection_table
from kvbench.reference.compare import compare
from tests.support import synthetic


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_diverges_is_farthest_outside_and_shown_without_a_number(tmp_path: Path, first: bool) -> None:
    known = synthetic.reference(tmp_path, 4, 2, synthetic.ALL[:2])
    fresh = synthetic.runs([0, 1], synthetic.ALL[:2], shift=0.5)
    fresh.loc[fresh["configuration"] == synthetic.ALL[1 - first], "train_loss"] = math.nan
    compared = tuple(compare(known, fresh, name) for name in synthetic.ALL[:2])
    result = FaultResult(next(iter(FAULTS.values())), changed=True, paired=compared, unpaired=compared)
    table = detection_table([result])
    assert "nan" not in table
    assert f"{synthetic.ALL[1 - first]}: train_loss" in table
    assert "no number / 0." in table
