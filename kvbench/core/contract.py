"""What a student must be, tried on a copy before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvbench.core.bank import FeatureBank
from kvbench.core.module import call, dtype_name, failure, state
from kvbench.core.numerics import RandomState, default_numerics, random_state_kept
from kvbench.core.recipe import EVALUATION_BATCH
from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.utils.errors import UserError

UNREPEATABLE = "its numbers do not repeat"


@default_numerics()
def check_student(trial: Run, again: Run, run: Run) -> list[str]:
    """Train a student for a step or two and evaluate it, on the batches' sizes of a training; nothing of it is kept.

    Global random number generators, and ``run``, are as they were afterwards.

    Args:
        trial: a run of the same configuration, banks and seed as ``run``; it cannot be used afterwards.
        again: another, likewise.
        run: the run that will be trained.

    Returns:
        What a reader of its numbers should know: empty, or that they cannot be repeated. `Run.draws` of ``run`` is set.

    Raises:
        UserError: names the student, what is wrong, and what is valid.
    """
    name, module = run.configuration.student.name, trial.module
    if module is run.module:
        raise UserError(
            f"The student {name} is the same module for every seed: its make must return a new one at each call."
        )
    before = {path: tensor.detach().clone() for path, tensor in state(run.module)}
    names = [path for path, _ in state(module)]
    if names != list(before) or not all(_equal(tensor, before[path]) for path, tensor in state(module)):
        raise UserError(
            f"The student {name} differs each time it is made with the same seed, so its numbers could not be repeated:"
            " draw its initial weights from torch's, numpy's or Python's global generator, which the seed sets."
        )
    with random_state_kept(run.device):
        trial.random_state.restore()
        logits = _train(name, trial)
        _evaluate(name, trial)
        draws = RandomState(run.device) != run.random_state
    if [path for path, _ in state(module)] != names:
        raise UserError(
            f"The student {name} makes parameters or buffers in its forward pass, which would not be trained nor kept:"
            " make them in __init__, from the taps' widths, or with torch.nn.LazyLinear."
        )
    if not all(_equal(tensor, before[path]) for path, tensor in state(run.module)):
        raise UserError(
            f"The student {name} shares parameters or buffers between seeds: its make must return a module of its own"
            " at each call."
        )
    run.draws = draws
    with random_state_kept(run.device):
        again.random_state.restore()
        repeats = all(_equal(one, other) for one, other in zip(logits, _train(name, again), strict=True))
    if not repeats:
        return [f"{name} gives other logits when it is trained again from the same seed: {UNREPEATABLE}"]
    if draws:
        return [f"{name} draws random numbers while it is trained: each seed has its own, and seeds take turns"]
    return []


def need_unchanged(student: Student, spare: FeatureBank, bank: FeatureBank) -> None:
    """Raise `UserError` where a student that was made from ``spare``, a copy of a bank, has changed it."""
    if spare is bank:
        return
    mine, theirs = ((*one.taps, one.logits, one.labels) for one in (spare, bank))
    if not all(_equal(x, y) for x, y in zip(mine, theirs, strict=True)):
        raise UserError(
            f"The student {student.name} changes the training bank that it is made from, on which others are trained,"
            " too: work on copies, such as bank.batch(slice(None)) gives."
        )


def _train(name: str, trial: Run) -> list[Tensor]:
    """Step on a batch of either size that an epoch has; returns the logits of both."""
    trial.module.train()
    count, size = len(trial.train), trial.configuration.recipe.batch_size
    found: list[Tensor] = []
    for rows in dict.fromkeys([min(size, count), count % size or size]):
        batch = torch.arange(min(rows, count), device=trial.device)
        logits = _logits(name, trial, trial.train, batch, "training", stepped=bool(found))
        found.append(logits.detach().clone())
        trained = [p for p in trial.module.parameters() if p.requires_grad]
        if trained and not logits.requires_grad:
            raise UserError(
                f"None of the {len(trained)} trainable parameters of the student {name} takes part in its logits:"
                " nothing would be trained. Is a tensor detached, or the pass under no_grad? If it is not to be"
                " trained, give its parameters requires_grad=False."
            )
        if len(batch) > 1 and bool((logits == logits[0]).all()):
            _need_inputs(name, trial, batch)
        _need_trained(name, trial, logits)
        try:
            trial.step(batch)
        except Exception as error:
            raise failure(name, "a training step", len(batch), error) from error
        if not torch.is_grad_enabled():
            raise UserError(
                f"The student {name} turns gradients off for all that follows (torch.set_grad_enabled(False)), so"
                " nothing would be trained: use `with torch.no_grad():`."
            )
    return found


def _evaluate(name: str, trial: Run) -> None:
    trial.module.eval()
    count = len(trial.val)
    for rows in dict.fromkeys([min(EVALUATION_BATCH, count), count % EVALUATION_BATCH or EVALUATION_BATCH]):
        batch = torch.arange(min(rows, count), device=trial.device)
        _logits(name, trial, trial.val, batch, "evaluation")


def _need_trained(name: str, trial: Run, logits: Tensor) -> None:
    """Refuse logits that depend on tensors which require gradients and are none of the optimiser's."""
    trained = {id(parameter) for group in trial.optimizer.param_groups for parameter in group["params"]}
    nodes = [logits.grad_fn]
    met = set(nodes)
    for node in nodes:
        tensor = getattr(node, "variable", None)
        if isinstance(tensor, Tensor) and id(tensor) not in trained:
            raise UserError(
                f"The student {name} reads a tensor of shape {tuple(tensor.shape)} that requires gradients and would"
                " not be trained, as it is not among the parameters of the module that make returned. Keep layers in"
                " torch.nn.ModuleList or ModuleDict, not in a list or dictionary; make parameters in __init__, from the"
                " taps' widths, or with torch.nn.LazyLinear; give what is not to be trained requires_grad=False."
            )
        following = {one for one, _ in node.next_functions if one} - met if node else set()
        met |= following
        nodes += following


def _need_inputs(name: str, trial: Run, batch: Tensor) -> None:
    """Refuse logits that are the same for every sample, unless they depend on the features in some way."""
    xs = [x.requires_grad_() for x in trial.train.batch(batch)[0]]
    logits = call(name, trial.module, xs, "training")
    if logits.requires_grad:
        gradients = torch.autograd.grad(logits.sum(), xs, allow_unused=True)
        if any(gradient is not None for gradient in gradients):
            return
    raise UserError(
        f"The student {name} gives the same logits whatever the features are: its forward pass must read the tap"
        " features that it is called with, a list."
    )


def _logits(name: str, trial: Run, bank: FeatureBank, batch: Tensor, mode: str, *, stepped: bool = True) -> Tensor:
    """Call the student on rows of a bank, before or after it was ``stepped``; returns logits that fit them."""
    xs = bank.batch(batch)[0]
    inputs = list(xs)
    versions = [x._version for x in inputs]
    with torch.inference_mode(mode == "evaluation"):
        logits = call(name, trial.module, xs, mode)
    changed = [i for i, (x, version) in enumerate(zip(inputs, versions, strict=True)) if x._version != version]
    if changed:
        raise UserError(
            f"The student {name} changes its input in place (tap {changed[0] + 1} of {len(inputs)}) in {mode} mode:"
            " work on a copy (x.clone()), without functions that end in _ and without inplace=True on a tap."
        )
    what = _unfit(logits, (len(batch), bank.classes), trial.device)
    if what:
        raise UserError(
            f"The student {name} returns {what} in {mode} mode; valid is one float32 tensor of shape (B, K), here"
            f" {(len(batch), bank.classes)}, on {trial.device.type}: a row of logits for each sample of the batch."
        )
    # A step may have made the parameters infinite: the training will say so, with the epoch and step.
    diverged = stepped and not all(bool(tensor.isfinite().all()) for _, tensor in state(trial.module))
    if not diverged and not bool(logits.isfinite().all()):
        finite = all(bool(x.isfinite().all()) for x in inputs)
        where = "before it is trained: look at its initialisation" if finite else "since the features are not"
        raise UserError(f"The student {name} returns logits that are not finite in {mode} mode, {where}.")
    return logits


def _unfit(out: object, shape: Sequence[int], device: torch.device) -> str:
    """What is wrong with logits; empty if nothing is."""
    if not isinstance(out, Tensor):
        return f"{type(out).__name__}"
    if tuple(out.shape) != tuple(shape):
        return f"a tensor of shape {tuple(out.shape)}"
    if out.dtype != torch.float32:
        return f"a tensor of {dtype_name(out.dtype)}"
    if out.layout != torch.strided:
        return f"a tensor of the layout {str(out.layout).removeprefix('torch.')}"
    if out.device.type != device.type:
        return f"a tensor on {out.device.type}"
    return ""


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same; what is no number is equal to itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
