"""Frozen teachers: weights shipped with the package, torchvision's pretrained ones, or a checkpoint file."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from kvbench.data.contract import name_differences
from kvbench.features.checkpoint import MEND, describe_misfit, fitting, read_tensors
from kvbench.utils.errors import UserError, shorten, unknown
from kvbench.utils.files import read_json

log = logging.getLogger(__name__)

SHIPPED = files("kvbench") / "weights"
ONE_SIZE = ("vit_", "maxvit_")  # architectures that are made for one size of images
# Heads that run in training alone; torchvision makes them by default, and its own weights come without them.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


@dataclass(frozen=True)
class Teacher:
    """A frozen, eval-mode classifier; ``classes`` are the names of its outputs where they are known.

    Example:
        >>> from kvbench.features.teacher import frozen
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
        >>> teacher = frozen("mine", net, ("cat", "dog"))
        >>> teacher.module(torch.rand(4, 3, 64, 64)).shape  # logits (B, K)
        torch.Size([4, 2])
    """

    name: str
    module: nn.Module
    classes: tuple[str, ...] | None
    sha256: str

    @property
    def fingerprint(self) -> dict[str, str]:
        """Architecture and weights."""
        return {"name": self.name, "sha256": self.sha256}

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def outputs_for(self, classes: tuple[str, ...]) -> tuple[int, ...] | None:
        """The outputs that are the data's ``classes``, by name; None where all of them are, in their order.

        Example:
            >>> Teacher("mine", my_module, ("ant", "bee", "cat"), "").outputs_for(("ant", "cat"))
            (0, 2)

        Raises:
            UserError: the teacher does not know one of the classes.
        """
        return None if self.classes is None else _outputs(self.name, self.classes, classes)


def _outputs(teacher: str, known: tuple[str, ...], classes: tuple[str, ...]) -> tuple[int, ...] | None:
    if known == classes:
        return None
    index = {name: output for output, name in enumerate(known)}
    if missing := [name for name in classes if name not in index]:
        difference = name_differences(classes, known, ("the data", "the teacher"))
        raise UserError(
            f"The teacher {teacher} was trained on {len(known):,} classes, and {len(missing):,} of the data's"
            f" {len(classes):,} are not among them; {difference}. Otherwise, {MEND}."
        )
    return tuple(index[name] for name in classes)


def frozen(name: str, module: nn.Module, classes: tuple[str, ...] | None) -> Teacher:
    """Freeze ``module`` (eval mode, no gradients) and fingerprint its parameters and buffers.

    What `torch.compile` or `DataParallel` wrapped is taken out: hooks find its modules under their own names.
    """
    while isinstance(inner := getattr(module, "_orig_mod", None) or _parallel(module), nn.Module):
        module = inner
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Teacher(name, module.eval().requires_grad_(False), classes, digest.hexdigest())


def _parallel(module: nn.Module) -> nn.Module | None:
    return module.module if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, in the order of a classifier's outputs."""
    return tuple((SHIPPED / "imagenet_wnids.txt").read_text(encoding="utf-8").split())


def check_arch(arch: str) -> None:
    """Raise `UserError` for what is not a torchvision classification model; names the nearest and all valid ones."""
    valid = torchvision.models.list_models(module=torchvision.models)
    if arch not in valid:
        raise unknown("torchvision model", arch, valid)


def build(arch: str, classes: int, size: int = 0) -> nn.Module:
    """Make a torchvision classification model with ``classes`` outputs, not yet trained.

    ``size`` is the side of its images in pixels, for architectures that take one size alone; 0: torchvision's.

    Raises:
        UserError: there is no such architecture, or it cannot be made for images of this size.
    """
    check_arch(arch)
    settings: dict[str, Any] = {}
    if arch in AUXILIARY:
        settings = {"aux_logits": False, "init_weights": True}
    elif size and arch.startswith(ONE_SIZE):
        settings = {"image_size": size} if arch.startswith("vit_") else {"input_size": (size, size)}
    try:
        with _warnings_logged():
            module: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **settings)
    except (AssertionError, ValueError) as error:
        if not settings:
            raise
        raise UserError(f"{arch} cannot be made for images of {size} pixels: {_sentence(error)}.") from error
    return module


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log what torchvision warns of, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        log.info("torchvision: %s", " ".join(text.split()))


def _sentence(error: BaseException) -> str:
    """What an error says, without a full stop."""
    return " ".join(str(error).split()).rstrip(".! ") or type(error).__name__


def refuses_size(name: str, images: Tensor, error: Exception) -> UserError:
    """An error for a teacher whose forward pass on ``images`` (B, 3, H, W) ended in ``error``."""
    height, width = images.shape[-2:]
    own = ""
    with suppress(ValueError):  # a teacher that is not torchvision's
        crop = torchvision.models.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
        own = f" torchvision made it for {crop} pixels: choose these with --kvbench-size {crop}, or another teacher."
    return UserError(
        f"The teacher {name} does not take images of {height} by {width} pixels ({_sentence(error)[:300]}).{own}"
    )


def check_logits(name: str, logits: object, images: int) -> Tensor:
    """Return ``logits`` (B, K) of ``images`` images; raises `UserError` where a teacher gives anything else."""
    if not isinstance(logits, Tensor):
        raise UserError(
            f"The teacher {name} gives {type(logits).__name__}, not logits (B, K): wrap it so that it does."
        )
    if logits.ndim != 2 or len(logits) != images or not logits.is_floating_point():
        raise UserError(
            f"The teacher {name} gives {str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)} for {images}"
            " images: expected logits (B, K), a row an image."
        )
    return logits


def shipped(name: str) -> Teacher:
    """Load a teacher that comes with the package: ``weights/<name>.safetensors``, described by ``<name>.json``."""
    if not (SHIPPED / f"{name}.json").is_file():
        raise UserError(f"kvbench ships no teacher for {name}: name one with --kvbench-checkpoint.")
    facts = json.loads((SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    with as_file(SHIPPED / f"{name}.safetensors") as path:
        return from_checkpoint(path, facts["arch"], tuple(facts["classes"]))


def pretrained(arch: str, classes: tuple[str, ...]) -> Teacher:
    """Load torchvision's default pretrained weights of ``arch``, which torchvision downloads or finds in its cache.

    ``classes`` are the data's: ImageNet's WordNet ids or some of them, or 1000 others, which are then taken to be the
    1000 outputs in their order.

    Raises:
        UserError: the classes are not ImageNet's, or the weights cannot be downloaded or read.
    """
    check_arch(arch)
    known = wnids()
    if {*classes} & {*known}:
        _outputs(arch, known, classes)  # before anything is downloaded
    elif len(classes) != len(known):
        raise UserError(
            f"torchvision's {arch} knows the {len(known):,} classes of ImageNet, and the data's {len(classes):,} are"
            f" not named by their WordNet ids, such as {known[0]}: {shorten(classes)}. Instead, {MEND}."
        )
    try:
        weights = torchvision.models.get_model_weights(arch).DEFAULT
        with _warnings_logged():
            module = torchvision.models.get_model(arch, weights=weights)
    except OSError as error:
        raise UserError(
            f"torchvision could not download its weights for {arch} ({error}). Download {weights.url} on a machine with"
            f" a network, and put the file into {torch.hub.get_dir()}/checkpoints."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"torchvision's weights for {arch} are damaged ({error}): remove them from {torch.hub.get_dir()}."
        ) from error
    return frozen(arch, module, known if {*classes} & {*known} else None)


def from_checkpoint(path: Path, arch: str, classes: tuple[str, ...], size: int = 0) -> Teacher:
    """Load a state dict of ``arch`` from a safetensors file or a ``torch.save`` file; half precision becomes float32.

    The state dict may lie under a name in the file (``state_dict``, ``model``), and its layers under a prefix
    (``module.``, ``_orig_mod.``), if one alone fits. Its outputs are ``classes``, in their order, unless
    `kvbench teacher train` left their names in a .json beside the file, or they are ImageNet's 1000 and ``classes`` are
    WordNet ids. ``size`` is that of `build`.

    Example:
        >>> from_checkpoint(Path("teachers/folder.safetensors"), "resnet18", ("cat", "dog")).classes
        ('cat', 'dog')

    Raises:
        UserError: the file is missing or holds no state dict, or its layers or its number of outputs do not fit.
    """
    check_arch(arch)
    found = read_tensors(path)
    facts, known = _record(path), wnids()
    recorded = tuple(facts.get("classes", ())) or None
    if facts.get("arch", arch) != arch:
        raise UserError(
            f"The checkpoint {path} is of {facts['arch']}, by the record beside it, not of {arch}: name its"
            f" architecture with --kvbench-teacher {facts['arch']}."
        )
    unused = AUXILIARY.get(arch, ())
    # ImageNet's weights serve data of some of its classes; those for images of another size are refused when they run.
    names = [recorded or classes] + ([known] if not recorded and {*classes} <= {*known} else [])
    sizes = [size, 0] if arch.startswith(ONE_SIZE) else [size]
    misfit = None
    for outputs, side in dict.fromkeys((one, side) for one in names for side in sizes):
        module = build(arch, len(outputs), side)
        if state := fitting(path, found, module.state_dict(), unused):
            break
        whose = f"the {len(outputs):,} classes of {path.with_suffix('.json')}"
        whose = whose if recorded else f"the data's {len(outputs):,} classes"
        misfit = misfit or describe_misfit(path, found, module.state_dict(), unused, arch, whose)
    else:
        assert misfit is not None
        raise misfit
    module.load_state_dict({k: state[k].to(v.dtype) if k in state else v for k, v in module.state_dict().items()})
    _outputs(arch, outputs, classes)
    return frozen(arch, module, outputs)


def _record(path: Path) -> dict[str, Any]:
    """What `kvbench teacher train` left beside a checkpoint; empty where there is nothing of the kind."""
    try:
        facts = read_json(path.with_suffix(".json"))
    except UserError:
        return {}
    classes, arch = (facts.get("classes"), facts.get("arch", "")) if isinstance(facts, dict) else (None, "")
    usable = isinstance(classes, list) and all(isinstance(name, str) for name in [*classes, arch])
    return facts if usable else {}
