"""Frozen teachers: weights shipped with the package, torchvision's pretrained ones, or a checkpoint file."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import read_json

SHIPPED = files("kvbench") / "weights"


@dataclass(frozen=True)
class Teacher:
    """A frozen, eval-mode classifier; ``classes`` are the names of its outputs where they are known."""

    name: str
    module: nn.Module
    classes: tuple[str, ...] | None
    sha256: str

    @property
    def fingerprint(self) -> dict[str, str]:
        """Architecture and weights."""
        return {"name": self.name, "sha256": self.sha256}


def frozen(name: str, module: nn.Module, classes: tuple[str, ...] | None) -> Teacher:
    """Freeze ``module`` (eval mode, no gradients) and fingerprint its parameters and buffers."""
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Teacher(name, module.eval().requires_grad_(False), classes, digest.hexdigest())


def check_arch(arch: str) -> None:
    """Raise `UserError` for what is no torchvision classification model; names the nearest and all valid ones."""
    valid = torchvision.models.list_models(module=torchvision.models)
    if arch not in valid:
        raise unknown("torchvision model", arch, valid)


def build(arch: str, classes: int) -> nn.Module:
    """Make a torchvision classification model with ``classes`` outputs, not yet trained."""
    check_arch(arch)
    module: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes)
    return module


def shipped(name: str) -> Teacher:
    """Load a teacher that comes with the package: ``weights/<name>.safetensors``, described by ``<name>.json``."""
    if not (SHIPPED / f"{name}.json").is_file():
        raise UserError(f"kvbench ships no teacher for {name}: name one with --kvbench-checkpoint.")
    facts = json.loads((SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    with as_file(SHIPPED / f"{name}.safetensors") as path:
        return from_checkpoint(path, facts["arch"], tuple(facts["classes"]))


def pretrained(arch: str) -> Teacher:
    """Load torchvision's default pretrained weights of ``arch``, which torchvision downloads or finds in its cache."""
    check_arch(arch)
    try:
        weights = torchvision.models.get_model_weights(arch).DEFAULT
        module = torchvision.models.get_model(arch, weights=weights)
    except OSError as error:
        raise UserError(
            f"torchvision could not download its weights for {arch} ({error}). Download them on a machine with a "
            "network and name the file with --kvbench-checkpoint."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"torchvision's weights for {arch} are damaged ({error}): remove them from {torch.hub.get_dir()}."
        ) from error
    return frozen(arch, module, None)


def from_checkpoint(path: Path, arch: str, classes: tuple[str, ...]) -> Teacher:
    """Load a state dict of ``arch`` from a safetensors file or a ``torch.save`` file; half precision becomes float32.

    Raises:
        UserError: the file is missing or no state dict, or its layers or classes do not fit; class names are known
            where `kvbench teacher train` left them, in a .json beside the file.
    """
    module = build(arch, len(classes))
    state = read_state_dict(path)
    trained = _recorded_classes(path)
    if trained is not None and trained != classes:
        odd = sorted({*trained} ^ {*classes})
        raise UserError(
            f"The checkpoint {path} was trained on {len(trained)} classes, the data has {len(classes)};"
            f" only on one side: {', '.join(odd[:5]) or 'none (the order differs)'}."
        )
    expected = module.state_dict()
    missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or surplus:
        raise UserError(
            f"The checkpoint {path} does not fit {arch}: it lacks {_some(missing)} and has {_some(surplus)} too many. "
            "Name its architecture with --kvbench-teacher."
        )
    wrong = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}"
        for k, v in expected.items()
        if state[k].shape != v.shape
    ]
    if wrong:
        raise UserError(
            f"The checkpoint {path} does not fit {arch} with the data's {len(classes)} classes: {'; '.join(wrong[:3])}."
        )
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in state.items()})
    return frozen(arch, module, classes)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors, or the one under ``state_dict`` in a training's checkpoint.

    Code is never unpickled; raises `UserError` for anything else.
    """
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif zipfile.is_zipfile(path):
            state = torch.load(_stored(path), "cpu", weights_only=True, mmap=True)
        else:
            state = torch.load(path, "cpu", weights_only=True)  # the format before torch 1.6
    except FileNotFoundError as error:
        raise UserError(f"No checkpoint file {path}.") from error
    except Exception as error:  # torch's unpickler meets other files' bytes with almost any error
        raise UserError(f"{path} is no readable state dict (safetensors, or torch.save of tensors alone).") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and _usual(v) for k, v in state.items()):
        raise UserError(f"{path} holds no state dict: expected a dictionary from layer names to tensors.")
    return dict(state)


def _stored(path: Path) -> Path:
    """Return a zip file whose parts are not compressed, as torch writes them: none becomes larger than the file."""
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise UserError(f"{path} is compressed.")
    return path


def _usual(value: object) -> bool:
    """Whether a value is a tensor as a layer has it: dense, real, with its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


def _recorded_classes(path: Path) -> tuple[str, ...] | None:
    """The class names in the provenance file beside a checkpoint, or None where there is none."""
    try:
        facts = read_json(path.with_suffix(".json"))
    except UserError:
        return None
    classes = facts.get("classes") if isinstance(facts, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, list) else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
