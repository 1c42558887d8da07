"""The state of a run after an epoch, as a file: from it, training goes on bit by bit as it would have."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from math import inf, isclose
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kvbench.core.bank import memory
from kvbench.core.trainer import Run
from kvbench.features import safetensors_io as tensorfile
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import write_whole

FORMAT = 1  # raise it when the layout changes
ORDER = "order"  # the state of the generator of batch orders


def save(run: Run, path: Path, key: str, epoch_seconds: list[float]) -> None:
    """Write the state of a run whose latest epoch has been evaluated; of a run that is done, its history alone.

    A student's state is its parameters and buffers. The file appears whole or not at all. It is not forced to the disk:
    what a power cut leaves of it does not fit its checksum.

    Args:
        run: on any device.
        path: a safetensors file.
        key: names all that decides the run's numbers.
        epoch_seconds: what each epoch of all runs side by side took.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {} if run.done else _tensors(run)
    facts = json.dumps(
        {
            "format": FORMAT,
            "key": key,
            "epochs_done": run.epochs_done,
            "history": run.history,
            "epoch_seconds": epoch_seconds,
            "lr": [group["lr"] for group in run.optimizer.param_groups],
            "scheduler": run.scheduler.state_dict() if run.scheduler else None,
        }
    )
    with write_whole(path, forced=False) as aside:
        tensorfile.write(aside, tensors, {"facts": facts, "sha256": _digest(tensors, facts)})


def restore(run: Run, path: Path, key: str) -> list[float]:
    """Put a run that has not begun into the state of ``path``; returns ``epoch_seconds``.

    Raises:
        UserError: there is no such file, it is damaged, or belongs to another run. The run is as it was then.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = metadata.get("facts", "")
        if metadata.get("sha256") != _digest(tensors, text):
            raise UserError("its checksum is another")
        facts = json.loads(text)
        if facts["format"] != FORMAT or facts["key"] != key:
            raise UserError("it belongs to another run")
        _check(run, facts, tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {error}.") from error
    if tensors:
        _load(run, facts, tensors)
    run.history, run.epochs_done = facts["history"], facts["epochs_done"]
    return list(facts["epoch_seconds"])


def _tensors(run: Run) -> dict[str, Tensor]:
    """All tensors that training changes, by name."""
    named = chain(run.module.named_parameters(), run.module.named_buffers())
    found = {f"module.{name}": value.detach() for name, value in named}
    for place, values in run.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{place}.{name}": value for name, value in values.items()}
    return {**found, ORDER: run.order.get_state()}


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    made = hashlib.sha256(facts.encode())
    for name, value in sorted(tensors.items()):
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        made.update(memory(value))
    return made.hexdigest()


def _check(run: Run, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise `UserError` or whatever the facts' shape raises, where they are not this run's after some epoch."""
    done, epochs = facts["epochs_done"], run.configuration.recipe.epochs
    rows = [(row["configuration"], row["seed"], row["epoch"]) for row in facts["history"]]
    possible = 0 < done <= epochs  # first: a made-up number of epochs would ask for much memory
    if not possible or rows != [(run.configuration.id, run.seed, epoch + 1) for epoch in range(done)]:
        raise UserError("its history is not that of this run")
    history.check(history.frame(facts["history"], "its history"), "its history", fresh=True, finite=False)
    if len(facts["epoch_seconds"]) < done or not all(type(s) is float and 0 <= s < inf for s in facts["epoch_seconds"]):
        raise UserError("its seconds are not possible")
    if done == epochs:
        tensors.clear()
        return
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    expected = {name: (value.shape, value.dtype) for name, value in _tensors(run).items()}
    for name in tensors:
        if name.startswith("optimizer."):  # a run that has not begun has none
            _, place, kind = name.split(".")
            parameter = trained[int(place)] if 0 <= int(place) < len(trained) else None
            if parameter is None or kind not in {"step", "exp_avg", "exp_avg_sq"}:
                raise UserError(f"the optimiser has no {name}")
            expected[name] = (torch.Size(), torch.float32) if kind == "step" else (parameter.shape, parameter.dtype)
    if odd := sorted({*expected} ^ {*tensors}):
        raise UserError(f"{odd[0]} is missing or not known")
    for name, value in tensors.items():
        if (value.shape, value.dtype) != expected[name]:
            raise UserError(f"{name} has the shape {tuple(value.shape)}; valid is {tuple(expected[name][0])}")
    try:
        torch.Generator().set_state(tensors[ORDER])
    except RuntimeError as error:
        raise UserError("its order of batches is no generator's state") from error
    recipe, lr = run.configuration.recipe, facts["lr"]
    decays = done // recipe.step_size if recipe.step_size else 0
    fits = all(type(value) is float and isclose(value, recipe.lr * recipe.gamma**decays) for value in lr)
    schedule = run.scheduler.state_dict() if run.scheduler else None
    if schedule is not None:
        schedule |= {"last_epoch": done, "_step_count": done + 1, "_last_lr": lr}
    if len(lr) != len(run.optimizer.param_groups) or not fits or facts["scheduler"] != schedule:
        raise UserError("its schedule is another")


@torch.no_grad()
def _load(run: Run, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, value in chain(run.module.named_parameters(), run.module.named_buffers()):
        value.copy_(tensors[f"module.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, place, kind = name.split(".")
            state.setdefault(int(place), {})[kind] = value
    whole = run.optimizer.state_dict()
    for group, lr in zip(whole["param_groups"], facts["lr"], strict=True):
        group["lr"] = lr
    run.optimizer.load_state_dict({**whole, "state": state})
    if run.scheduler:
        run.scheduler.load_state_dict(facts["scheduler"])
    run.order.set_state(tensors[ORDER])
