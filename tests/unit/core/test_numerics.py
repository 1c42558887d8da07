"""Global switches of torch, numpy and warnings: none decides a number, all are afterwards as they were."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kvbench.core.cost import cost
from kvbench.core.numerics import RandomState, accelerator, default_numerics
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.studies import kv_memory
from tests.support.banks import CPU, assert_equal, in_memory, tiny_settings
from tests.support.trainer import WIDTHS, config, history, mine, random_bank

MKLDNN: Any = torch.backends.mkldnn  # stubs lack its matmul


@contextmanager
def switched(switch: Callable[[Any], object], to: Any, back: Any) -> Iterator[None]:
    switch(to)
    try:
        yield
    finally:
        switch(back)


def dtype() -> Any:
    return switched(torch.set_default_dtype, torch.float64, torch.float32)


def set_reduced(on: bool) -> None:
    if hasattr(torch.backends, "fp32_precision"):
        MKLDNN.matmul.fp32_precision = "bf16" if on else "none"
    else:
        torch.backends.cuda.matmul.allow_tf32 = on


@contextmanager
def errors() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


SWITCHES: dict[str, Callable[[], Any]] = {
    "default dtype": dtype,
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "grad mode": lambda: switched(torch.set_grad_enabled, False, True),
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "matmul precision": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "reduced precision": lambda: switched(set_reduced, True, False),
    "mkldnn": lambda: switched(partial(setattr, torch.backends.mkldnn, "enabled"), False, True),
    "flushed denormals": lambda: switched(torch.set_flush_denormal, True, False),
    "attention": lambda: switched(torch.backends.cuda.enable_flash_sdp, False, True),
    "transformers": lambda: switched(torch.backends.mha.set_fastpath_enabled, False, True),
    "errors": errors,
}


def switches() -> list[Any]:
    """What a caller can tell of them."""
    here = torch.get_default_device()
    tiny = sys.float_info.min * 0.5
    return [
        torch.get_default_dtype(), here, torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.mkldnn.enabled, tiny == 0, np.geterr(),
        list(warnings.filters),
        getattr(MKLDNN.matmul, "fp32_precision", torch.get_float32_matmul_precision),
        getattr(torch.backends.cuda.matmul, "fp32_precision", None),
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled,
        torch.backends.cudnn.allow_tf32, torch._C._get_flash_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    ]  # fmt: skip


PLAIN_BANK, VAL = random_bank(130), random_bank(40, seed=1)


class Tiny(nn.Module):
    """Warns, and computes with denormal numbers."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        warnings.warn("a word", stacklevel=2)
        self.head = nn.Linear(width, classes)
        self.attend = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        scale = torch.full((), 1e-30) * 1e-10 * 1e30 * 1e10  # 1, or 0 where denormals are flushed
        out: torch.Tensor = self.head(self.attend(torch.stack(xs[-2:], 1)).mean(1)) * scale
        return out


def numbers() -> list[Any]:
    """Everything that is computed of a bank."""
    found: list[Any] = [PLAIN_BANK.perturbed(3).digest, PLAIN_BANK.digest, PLAIN_BANK.teacher_accuracy]
    banks = PLAIN_BANK.perturbed(1), VAL.perturbed(2)
    for row in (kv_memory.STUDY.student("Model4"), mine(lambda widths, k: Tiny(widths[-1], k))):
        training = Training(config(row), PLAIN_BANK, VAL, [0, 1], replicates=[Run(config(row), *banks, 0)])
        found += [history(training), [{**row, "seconds": 0} for row in training.replicate_history]]
        found.append(history(Run(config(row), PLAIN_BANK, VAL, 7)))
        found.append(cost(row, WIDTHS, 5))
    return found


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return numbers()


@pytest.mark.filterwarnings("default:a word")
@pytest.mark.parametrize("name", SWITCHES)
def test_no_number_depends_on_a_switch_and_all_are_as_they_were(name: str, expected: list[Any]) -> None:
    before = RandomState(CPU)
    with SWITCHES[name]():
        set_to = switches()
        found = numbers()
        assert switches() == set_to
    assert found == expected
    assert RandomState(CPU) == before


@pytest.mark.parametrize("name", SWITCHES)
def test_no_feature_depends_on_a_switch(name: str) -> None:
    settings = tiny_settings(40)
    whole = in_memory(settings)
    with SWITCHES[name](), default_numerics():
        assert_equal(in_memory(settings), whole)


def test_switches_are_restored_after_an_error() -> None:
    with dtype():
        with pytest.raises(ZeroDivisionError), default_numerics():
            _ = int(torch.zeros(1).dtype == torch.float32) / 0
        assert torch.zeros(1).dtype == torch.float64


def test_warnings_are_shown_and_those_that_are_ignored_stay_so() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "quiet")
        with default_numerics():
            warnings.warn("loud", stacklevel=1)
            warnings.warn("quiet", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["loud"]


def test_random_states_of_all_generators_are_told_apart_and_restored() -> None:
    import random

    first = RandomState(CPU)
    for draw in (lambda: torch.rand(1), np.random.rand, random.random):
        draw()
        assert RandomState(CPU) != first
        first.restore()
        assert RandomState(CPU) == first
    again = RandomState.from_tuple(CPU, first.as_tuple())
    assert again == first
    assert first != 3


def test_nobody_asks_for_an_accelerator_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Cannot access accelerator device when none is available.")  # torch 2.6, built for CUDA

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", refuse)
    assert accelerator() is None
    with default_numerics():
        pass
