"""Probes: what a student computes from fixed numbers, its gradients, and its optimiser's steps, whatever the seed."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from kvbench.core.bank import FeatureBank, project
from kvbench.core.interleave import interleave
from kvbench.core.numerics import default_numerics, random_state_kept, seed_everything
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run

STEPS = (1e-3, -5e-4, 2e-3, 3e-4)  # sizes of gradients: about as large as a loss's, so that Adam's eps shows
SAME = 2.0**-16  # relative: how far perturbed features and another seed may move it
LARGEST = 1e18
KINDS = ("outputs", "gradients", "steps")
Probe = dict[str, list[float]]  # by `KINDS`


def probe(configuration: Configuration, widths: Sequence[int], classes: int, device: torch.device) -> Probe:
    """Fill the parameters of a student with fixed numbers, and pass a fixed batch forward and back.

    Numbers are drawn by numpy's `RandomState`, whose stream is frozen, a parameter's by its name. So a probe is the
    same with any seed and version of torch, up to rounding. It says what data and seeds hide: an activation that is a
    little different, a term missing from the loss, an optimiser's argument.

    Args:
        configuration: student and recipe.
        widths: D of every tap of a bank.
        classes: K.
        device: where.

    Returns:
        Random projections: ``outputs`` of what the student computes from a batch, ``gradients`` of those of the
        recipe's loss, ``steps`` of how each parameter changes in a few steps of the optimiser with fixed gradients.
        One is empty where another seed, as with dropout, or other rounding of the features, as in half precision, moves
        it, or where it is no finite number. Nothing of a student that is made from the bank.

    Raises:
        UserError: the student cannot be made. Anything else that its own code raises on such numbers.

    Example:
        >>> found = probe(Configuration(linear, Recipe(lr=1e-3)), [256, 512, 512], 200, torch.device("cpu"))
        >>> [*found], len(found["outputs"])
        (['outputs', 'gradients', 'steps'], 4)
    """
    if configuration.student.make is None:
        return {}
    # A loss may have a state, which is not this probe's to change.
    own = replace(configuration, recipe=replace(configuration.recipe, loss=copy.deepcopy(configuration.recipe.loss)))
    bank = _bank(widths, classes, configuration.recipe.batch_size, device)
    one, other = Run(own, bank, bank, 0), Run(own, bank.perturbed(0), bank, 1)
    found: tuple[Probe, Probe] = ({}, {})
    # One after the other, as both may share tensors; more threads would wait for each other.
    interleave([chain(_probe(one, found[0]), _probe(other, found[1]))], 1)
    return {kind: found[0][kind] if _same(found[0][kind], found[1][kind]) else [] for kind in KINDS}


def _bank(widths: Sequence[int], classes: int, rows: int, device: torch.device) -> FeatureBank:
    draws = np.random.RandomState(0)

    def drawn(width: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal((rows, width))).float().to(device)

    taps = tuple(drawn(width).relu() for width in widths)
    return FeatureBank(taps, 3 * drawn(classes), torch.arange(rows, device=device) % classes)


def _probe(run: Run, found: Probe) -> Iterator[None]:
    """Fill ``found``, pausing after each kind."""
    named = {name: one for name, one in sorted(run.module.named_parameters()) if one.is_floating_point()}
    theirs = {name: one.data for name, one in named.items()}  # perhaps not the student's alone: nothing writes there
    fixed = {name: _drawn(name, one) / max(1, one.shape[-1:].numel()) ** 0.5 for name, one in named.items()}

    def fill() -> None:
        for name, one in named.items():
            one.data = fixed[name].clone()

    try:
        with _alike(run), torch.no_grad():
            fill()
            run.module.train()
            found["outputs"] = project(run.module(run.train.batch(slice(None))[0]))
        yield
        with _alike(run):  # before a gradient that rounding moves is in the optimiser's state
            gradients = {name: _drawn(f"{name}: gradient", one) for name, one in named.items() if one.requires_grad}
            for size in STEPS:
                for name, gradient in gradients.items():
                    named[name].grad = size * gradient
                run.optimizer.step()
            found["steps"] = _projected([one.detach() - fixed[name] for name, one in named.items()])
        yield
        with _alike(run):
            fill()
            run.step(torch.arange(len(run.train), device=run.device))
            found["gradients"] = _projected([
                torch.zeros_like(one) if one.grad is None else one.grad for one in named.values()
            ])  # fmt: skip
    finally:
        for name, one in named.items():
            one.data = theirs[name]


@contextmanager
def _alike(run: Run) -> Iterator[None]:
    """A block in which random numbers are those of the run's seed."""
    with default_numerics(), np.errstate(all="ignore"), random_state_kept(run.device):
        seed_everything(run.seed, run.device)
        yield


def _drawn(name: str, like: Tensor) -> Tensor:
    """Normal numbers that a name decides."""
    draws = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(np.asarray(draws.standard_normal(like.shape))).to(like.device, like.dtype)


def _projected(tensors: Sequence[Tensor]) -> list[float]:
    matrices = [one.flatten(1) if one.ndim > 1 else one.reshape(1, -1) for one in tensors]
    return [number for matrix in matrices for number in project(matrix)]


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether numbers are finite, and those of another seed and rounding."""
    finite = all(abs(number) < LARGEST for number in (*one, *other))
    return finite and math.dist(one, other) <= SAME * math.hypot(*one)
