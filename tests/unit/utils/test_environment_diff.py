"""What is told of a run that was made elsewhere than its reference."""

from __future__ import annotations

import pytest
import torch

from kvbench.utils.environment import environment, numerics
from kvbench.utils.environment_diff import differences

RECORDED = {
    "versions": {"torch": "2.14", "kvbench": "0.1", "numpy": "2.4"},
    "hardware": "cpu, x86_64, 2 processors",
    "numerics": {"instructions": "AVX512"},
}


def test_the_same_environment_has_no_differences() -> None:
    assert differences(RECORDED, RECORDED) == []


def test_each_difference_names_both_sides() -> None:
    here = {
        "versions": {"torch": "2.15", "kvbench": "0.2", "numpy": "2.4"},
        "hardware": "cuda, H100, 16 processors",
        "numerics": {"instructions": "AVX2", "MKL_CBWR": "AVX2"},
    }
    assert differences(RECORDED, here) == [
        "torch 2.15 (recorded: 2.14)",
        "instructions AVX2 (recorded: AVX512)",
        "MKL_CBWR AVX2 (recorded: not set)",
        "hardware cuda, H100, 16 processors (recorded: cpu, x86_64, 2 processors)",
    ]


@pytest.mark.parametrize("recorded", [{}, {"versions": "2.14", "numerics": None}, {"versions": {"pandas": "2"}}])
def test_what_a_reference_does_not_tell_is_no_difference(recorded: dict[str, object]) -> None:
    assert differences(recorded, RECORDED) == []


def test_switches_that_change_digits_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("HOME_TOWN", "X")
    made = environment(torch.device("cpu"))["numerics"]
    assert made["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "HOME_TOWN" not in made
    assert made["instructions"] == torch.backends.cpu.get_cpu_capability()
    before = numerics()["deterministic algorithms"]
    torch.use_deterministic_algorithms(True)
    try:
        assert (before, numerics()["deterministic algorithms"]) == ("off", "on")
    finally:
        torch.use_deterministic_algorithms(False)
