"""A project whose conftest turns every switch of torch, numpy and warnings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support.project import Project, counts
from tests.support.resume import TWO

HOSTILE = """
import random, warnings
import numpy as np
import pytest, torch

torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.use_deterministic_algorithms(True)
torch.autograd.set_detect_anomaly(True)
torch.set_float32_matmul_precision("medium")
torch.set_flush_denormal(True)
torch.set_printoptions(precision=1, sci_mode=True)
torch.set_grad_enabled(False)
np.seterr(all="raise")
np.set_printoptions(precision=1)

@pytest.fixture(autouse=True)
def hostile():
    torch.set_grad_enabled(False)
    random.seed(1), np.random.seed(1)
    with warnings.catch_warnings(), torch.autocast("cpu"), torch.inference_mode():
        warnings.simplefilter("error")
        yield
"""


@pytest.fixture
def restored() -> Iterator[None]:
    """What the conftest switches is as it was after the test: it runs in this process."""
    errors = np.geterr()
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
    torch.set_grad_enabled(True)
    np.seterr(**errors)
    np.set_printoptions(precision=8)


@pytest.mark.usefixtures("restored")
def test_no_switch_in_a_conftest_moves_a_number(run: Project, pytester: pytest.Pytester) -> None:
    """The reference was recorded without them; banks are made again, under them."""
    pytester.makeconftest(HOSTILE)
    pytester.run("rm", "-r", ".kvbench")
    counts(run(*TWO), passed=2, failed=0, warnings=0)
