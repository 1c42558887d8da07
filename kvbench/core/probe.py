"""Probes: what a student computes from fixed numbers and how it learns from them, whatever seed, data and teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kvbench.core.bank import FeatureBank, project
from kvbench.core.interleave import interleave
from kvbench.core.numerics import default_numerics, random_state_kept, seed_everything
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run

ROWS = 64
STEPS = 4


def probe(
    configuration: Configuration, widths: Sequence[int], classes: int, device: torch.device
) -> dict[str, list[float]]:
    """Fill all parameters of a student with fixed numbers, and take its recipe's first steps on a fixed batch.

    Numbers are drawn by numpy's `RandomState`, whose stream is frozen, so a probe is the same with any seed and version
    of torch, up to rounding. It says what data and seeds hide: an activation that is a little different, a term that
    the loss lacks, an optimiser's argument.

    Args:
        configuration: student and recipe.
        widths: D of every tap of a bank.
        classes: K.
        device: where.

    Returns:
        ``outputs``: random projections of what the student computes from `ROWS` rows; ``learning``: of how each
        parameter has changed after `STEPS` steps. Empty where seeds give other outputs, as with dropout, or a number is
        not finite. Nothing of a student that is made from the bank.

    Raises:
        UserError: the student cannot be made, or a step fails.

    Example:
        >>> found = probe(Configuration(linear, Recipe(lr=1e-3)), [256, 512, 512], 200, torch.device("cpu"))
        >>> [*found], len(found["outputs"])
        (['outputs', 'learning'], 4)
    """
    if configuration.student.make is None:
        return {}
    found: list[tuple[list[float], list[float]]] = []

    def work() -> Iterator[None]:
        for seed, steps in ((0, STEPS), (1, 0)):
            found.append(_steps(configuration, widths, classes, device, seed, steps))
            yield

    interleave([work()], 1)  # of many threads, most would wait for the others at every small matrix
    (outputs, learning), (others, _) = found
    fits = outputs == others and all(map(math.isfinite, (*outputs, *learning)))
    return {"outputs": outputs, "learning": learning} if fits else {"outputs": [], "learning": []}


@default_numerics()
@np.errstate(all="ignore")  # what is no finite number is left out
def _steps(
    configuration: Configuration, widths: Sequence[int], classes: int, device: torch.device, seed: int, steps: int
) -> tuple[list[float], list[float]]:
    """Projections of the outputs, and of the change of each parameter after so many steps."""
    draws = np.random.RandomState(0)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal(shape)).float().to(device)

    taps = tuple(drawn(ROWS, width).relu() for width in widths)
    bank = FeatureBank(taps, 3 * drawn(ROWS, classes), torch.arange(ROWS, device=device) % classes)
    run = Run(configuration, bank, bank, seed)
    parameters = [*run.module.parameters()]
    before = [drawn(*parameter.shape) / max(1, parameter.shape[-1:].numel()) ** 0.5 for parameter in parameters]
    with random_state_kept(device):
        seed_everything(seed, device)
        run.module.train()
        with torch.no_grad():
            for parameter, numbers in zip(parameters, before, strict=True):
                parameter.copy_(numbers)
            outputs = run.module(run.train.batch(slice(None))[0])
        for _ in range(steps):
            run.step(torch.arange(len(run.train), device=device))
    changes = [parameter.detach() - numbers for parameter, numbers in zip(parameters, before, strict=True)]
    matrices = [change.flatten(1) if change.ndim > 1 else change.reshape(1, -1) for change in changes]
    return project(outputs), [number for matrix in matrices for number in project(matrix)]
