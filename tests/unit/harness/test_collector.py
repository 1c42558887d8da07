"""What a session leaves in the saved file about how its trainings were compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.results import saved
from tests.support import DESIGN
from tests.support.collected import collected
from tests.support.synthetic import reference, runs


@pytest.mark.parametrize("recorded", [True, False])
def test_a_training_without_a_reference_is_not_saved_as_within_it(recorded: bool, tmp_path: Path) -> None:
    if recorded:
        reference(tmp_path)
    collector, _ = collected(tmp_path, "synthetic", DESIGN, runs(range(4)), select=["Model1"])
    (record,) = collector.save([])[saved.NOT_TIMED]
    assert (record["compared"], record["drifted"]) == (recorded, [])
