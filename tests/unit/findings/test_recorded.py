"""The verdicts that are recorded are those that the findings give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvbench.reference.update import rejudge
from tests.support import DESIGN, EXPECTED


@pytest.mark.parametrize("workload", ["imagenet", "tiny-imagenet", "fractals"])
def test_judged_again_they_are_the_same_file(workload: str, tmp_path: Path) -> None:
    shutil.copytree(EXPECTED / workload, tmp_path / workload)
    rejudge(tmp_path, workload, DESIGN)
    assert (tmp_path / workload / "verdicts.csv").read_bytes() == (EXPECTED / workload / "verdicts.csv").read_bytes()
