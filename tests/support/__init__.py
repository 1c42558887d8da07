"""Helpers that several tests share."""

from pathlib import Path

from kvbench.studies.kv_memory import DESIGN as DESIGN

ROOT = Path(__file__).parents[2]
EXPECTED = ROOT / "expected"
