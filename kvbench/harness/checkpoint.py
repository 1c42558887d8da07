"""The state of a run after an epoch, as a file: from it, training goes on bit by bit as it would have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kvbench.core.bank import bytes_of
from kvbench.core.module import attributes, state
from kvbench.core.numerics import RandomState
from kvbench.core.run import Run
from kvbench.results import history
from kvbench.utils.errors import UserError, describe
from kvbench.utils.files import atomic_write
from kvbench.utils.oom import out_of_memory

FORMAT = 2  # raise it when the layout changes
ADAM = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def save(run: Run, path: Path, key: str) -> None:
    """Write the state of a run whose latest epoch has been evaluated; of a run that is done, its history alone.

    A state is the memory of all tensors of student and optimiser, as it is laid out, with their shapes and strides,
    and what else they say is their state. The file appears complete or not at all. It is not forced to the disk: what
    a power cut leaves of it does not fit its checksum.

    Args:
        run: on any device.
        path: a safetensors file.
        key: names all that decides the run's numbers.

    Raises:
        UserError: the file cannot be written, or student or optimiser have a state that cannot be kept.
    """
    student, now = run.configuration.student.name, {} if run.done else attributes(run.module)
    if changed := [name for name, value in now.items() if run.attributes.get(name) != value]:
        raise UserError(
            f"The student {student} changes {changed[0]} while it is trained, which is neither a parameter nor a buffer"
            " nor part of get_extra_state: its state cannot be kept."
        )
    storages = Storages()
    facts = json.dumps(
        {
            "format": FORMAT,
            "key": key,
            "epochs_done": run.epochs_done,
            "history": run.history,
            "state": None if run.done else storages.encode(_state(run), student),
        }
    )
    tensors = storages.contents()
    content = serialized(tensors, {"facts": facts, "sha256": _digest(tensors, facts)})
    with atomic_write(path, fsync=False) as tmp:
        tmp.write_bytes(content)


def restore(run: Run, path: Path, key: str) -> None:
    """Put a run that has not begun into the state of ``path``.

    Raises:
        UserError: there is no such file, it is damaged, or belongs to another run. The run has not begun then.
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
        _check_history(run, facts)
        if facts["epochs_done"] < run.configuration.recipe.epochs:
            _load(run, facts, tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{path} cannot be used: {str(error).rstrip('.')}.") from error
    run.history, run.epochs_done = facts["history"], facts["epochs_done"]


def _state(run: Run) -> dict[str, Any]:
    """All that training changes and that student, optimiser and schedule say is their state."""
    name = type(run.optimizer).__name__
    optimizer = run.optimizer.state_dict()
    if optimizer.keys() != {"state", "param_groups"}:
        raise UserError(f"The optimiser {name} keeps more than state and param_groups: its state cannot be kept.")
    return {
        "module": dict(state(run.module)),
        "extra": {path: module.get_extra_state() for path, module in _with_extra_state(run.module).items()},
        "optimizer": optimizer,
        "scheduler": run.scheduler.state_dict() if run.scheduler else None,
        "order": run.order.get_state(),
        "random": run.random_state.as_tuple() if run.draws else None,
    }


def _with_extra_state(module: nn.Module) -> dict[str, nn.Module]:
    plain = nn.Module.get_extra_state
    return {path: part for path, part in module.named_modules() if type(part).get_extra_state is not plain}


class Storages:
    """The memory that tensors lie in, by number: what they share is there once, what lies between their numbers, too.

    Args:
        known: the memory to decode from.
    """

    def __init__(self, known: Mapping[int, UntypedStorage] | None = None):
        self.known = dict(known or {})
        self._numbers: dict[tuple[torch.device, int], int] = {}  # by address

    def encode(self, value: Any, owner: str) -> Any:
        """Turn a state into JSON, in which a tensor is the number of its memory and its layout there.

        Raises:
            UserError: part of it is neither a tensor nor plain data; ``owner`` is named.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.encode(inner, owner) for inner in value]}
        if isinstance(value, dict) and all(type(name) in (int, str) for name in value):
            return {"dict": [[name, self.encode(inner, owner)] for name, inner in value.items()]}
        if isinstance(value, Tensor) and value.layout == torch.strided and not is_traceable_wrapper_subclass(value):
            storage = value.untyped_storage()
            number = self._numbers.setdefault((value.device, storage.data_ptr()), len(self._numbers))
            self.known[number] = storage
            dtype = str(value.dtype).removeprefix("torch.")
            layout = list(value.shape), list(value.stride()), value.storage_offset()
            return {"tensor": [number, dtype, *layout, value.requires_grad]}
        raise UserError(
            f"The state of {owner} has {type(value).__name__}; what can be kept are tensors, numbers, texts, and lists"
            " and dictionaries of them."
        )

    def decode(self, value: Any) -> Any:
        """The state that `encode` turned into JSON; raises whatever the shape of something else raises."""
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            number, dtype, shape, stride, offset, requires_grad = inner
            storage = self.known[number]
            tensor = torch.empty(0, dtype=getattr(torch, dtype), device=storage.device)
            return tensor.set_(storage, offset, shape, stride).requires_grad_(requires_grad)
        if kind == "dict":
            return {name: self.decode(one) for name, one in inner}
        return {"list": list, "tuple": tuple}[kind](self.decode(one) for one in inner)

    def contents(self) -> dict[str, Tensor]:
        """All memory as bytes, by kind of device and number."""
        return {
            f"{'cpu' if storage.device.type == 'cpu' else 'device'}.{number}": flat(storage).cpu()
            for number, storage in self.known.items()
        }


def flat(storage: UntypedStorage) -> Tensor:
    """A storage as a tensor of bytes that shares its memory."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """A checksum of a state: ``facts`` hold names, types and layouts, ``tensors`` the bytes."""
    hashed = hashlib.sha256(facts.encode())
    for name, value in sorted(tensors.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(bytes_of(value))
    return hashed.hexdigest()


def _check_history(run: Run, facts: dict[str, Any]) -> None:
    """Raise `UserError` or whatever the facts' shape raises, where the history is not this run's after some epoch."""
    done, epochs = facts["epochs_done"], run.configuration.recipe.epochs
    rows = [(row["configuration"], row["seed"], row["epoch"]) for row in facts["history"]]
    possible = 0 < done <= epochs  # first: a made-up number of epochs would ask for much memory
    if not possible or rows != [(run.configuration.id, run.seed, epoch + 1) for epoch in range(done)]:
        raise UserError("its history is not that of this run")
    history.check(history.frame(facts["history"], "its history"), "its history", fresh=True, finite=False)


@torch.no_grad()
def _load(run: Run, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Check a state against a run that has not begun, then put it there."""
    fresh, saved = Storages(), {}
    expected = dict(fresh.encode(_state(run), run.configuration.student.name)["dict"])
    found = dict(facts["state"]["dict"])
    _check_module(dict(expected["module"]["dict"]), dict(found["module"]["dict"]))
    for name, value in tensors.items():
        device, _, number = name.partition(".")
        saved[int(number)] = (value if device == "cpu" else value.to(run.device)).untyped_storage()
    own = {tensor["tensor"][0]: fresh.known[tensor["tensor"][0]] for _, tensor in expected["module"]["dict"]}
    for number, storage in own.items():
        if saved[number].nbytes() != storage.nbytes():
            raise UserError(f"the student has {storage.nbytes()} bytes where it has {saved[number].nbytes()}")
    # What lies in the student's own memory, of the optimiser's state, is found there and not in a copy.
    loaded = Storages({**saved, **own}).decode(facts["state"])
    _check_optimizer(run, loaded["optimizer"])
    _check_schedule(run, facts["epochs_done"], loaded["optimizer"]["param_groups"], loaded["scheduler"])
    modules = _with_extra_state(run.module)
    if loaded["extra"].keys() != modules.keys() or (loaded["random"] is None) == run.draws:
        raise UserError("its extra state or its random numbers are those of another student")
    try:
        torch.Generator().set_state(loaded["order"])
    except (RuntimeError, TypeError) as error:
        raise UserError("its order of batches is no generator's state") from error
    if run.draws:
        run.random_state = RandomState.from_tuple(run.device, loaded["random"])

    for number, storage in own.items():
        flat(storage).copy_(flat(saved[number]))
    try:
        for path, module in modules.items():
            module.set_extra_state(loaded["extra"][path])
    except Exception as error:
        run.__init__(run.configuration, *run.banks, run.seed)  # type: ignore[misc]
        raise UserError(f"the student's set_extra_state raises {describe(error)}") from error
    parameters = _trained(run)
    for name, value in loaded["optimizer"]["state"].items():
        run.optimizer.state[parameters[name] if type(name) is int else name] = value
    for group, values in zip(run.optimizer.param_groups, loaded["optimizer"]["param_groups"], strict=True):
        group.update({name: value for name, value in values.items() if name != "params"})
    if run.scheduler:
        run.scheduler.load_state_dict(loaded["scheduler"])
    run.order.set_state(loaded["order"])


def _trained(run: Run) -> list[nn.Parameter]:
    """The optimiser's parameters, in the order of its state dict."""
    return [parameter for group in run.optimizer.param_groups for parameter in group["params"]]


def _check_module(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `UserError` where the student's tensors are others, or lie otherwise in memory."""
    if missing := sorted(expected.keys() ^ found.keys()):
        raise UserError(f"{missing[0]} is missing or not known")
    for name, tensor in expected.items():
        if found[name] != tensor:
            raise UserError(f"{name} is laid out as {found[name]}; valid is {tensor}")


def _check_optimizer(run: Run, found: dict[str, Any]) -> None:
    """Raise `UserError` where an optimiser's state is not this one's; in detail where it is Adam's."""
    groups = run.optimizer.state_dict()["param_groups"]
    adam = isinstance(run.optimizer, torch.optim.Adam)
    if len(found["param_groups"]) != len(groups):
        raise UserError("its optimiser has other groups of parameters")
    for group, expected in zip(found["param_groups"], groups, strict=True):
        checked = [name for name in expected if name == "params" or (adam and name != "lr")]
        if group.keys() != expected.keys() or any(group[name] != expected[name] for name in checked):
            raise UserError("its optimiser has other settings")
    parameters = _trained(run)
    for name, state_of in found["state"].items():
        if type(name) is int and not 0 <= name < len(parameters):
            raise UserError(f"the optimiser has no parameter {name}")
        for kind, value in state_of.items() if adam else ():
            shape = torch.Size() if kind == "step" else parameters[name].shape
            if kind not in ADAM or value.shape != shape or not value.is_floating_point():
                raise UserError(f"the optimiser's {kind} of parameter {name} has the shape {tuple(value.shape)}")


def _check_schedule(run: Run, done: int, groups: list[dict[str, Any]], found: dict[str, Any] | None) -> None:
    """Raise `UserError` where lr and schedule are not those after ``done`` epochs, as far as StepLR tells."""
    if run.scheduler is not None and not isinstance(run.scheduler, torch.optim.lr_scheduler.StepLR):
        return
    recipe = run.configuration.recipe
    factor = recipe.gamma ** (done // recipe.step_size) if run.scheduler else 1.0
    fresh = [float(group["lr"]) for group in run.optimizer.param_groups]
    lrs = [group["lr"] for group in groups]
    fits = all(isclose(float(lr), first * factor) for lr, first in zip(lrs, fresh, strict=True))
    schedule = run.scheduler.state_dict() if run.scheduler else None
    if schedule is not None:
        schedule |= {"last_epoch": done, "_step_count": done + 1, "_last_lr": lrs}
    if not fits or found != schedule:
        raise UserError("its schedule is another")
