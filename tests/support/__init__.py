"""Helpers that several tests share."""

from pathlib import Path

from kvbench.studies.kv_memory import STUDY

ROOT = Path(__file__).parents[2]
DESIGN = STUDY.design  # of the source
EXPECTED = ROOT / "expected"
