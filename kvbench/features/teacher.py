"""Frozen teachers: weights shipped with the package, pretrained ones, or a checkpoint file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kvbench.core.stages import Tap, find_taps, last_stages
from kvbench.data.base import Images
from kvbench.data.contract import name_differences
from kvbench.data.loader import batches
from kvbench.features.architecture import SHIPPED, Factory, architecture, sentence, wnids
from kvbench.features.checkpoint import MEND, describe_misfit, fitting, read_tensors
from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import read_json
from kvbench.utils.oom import OTHER_PLACE, enough_memory

USUAL = 224  # pixels, where nothing says which images a teacher is for


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
    code: str = ""  # a digest of the user's code that it runs

    @property
    def fingerprint(self) -> dict[str, str]:
        """Architecture and weights, and the code where that is the user's."""
        return {"name": self.name, "sha256": self.sha256, **({"code": self.code} if self.code else {})}

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


def frozen(name: str, module: nn.Module, classes: tuple[str, ...] | None, code: str = "") -> Teacher:
    """Freeze ``module`` (eval mode, no gradients) and fingerprint its parameters and buffers.

    What `torch.compile` or `DataParallel` wrapped is taken out: hooks find its modules under their own names.
    """
    while isinstance(inner := getattr(module, "_orig_mod", None) or _parallel(module), nn.Module):
        module = inner
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Teacher(name, module.eval().requires_grad_(False), classes, digest.hexdigest(), code)


def _parallel(module: nn.Module) -> nn.Module | None:
    return module.module if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def build(arch: str | Factory, classes: int, size: int = 0) -> nn.Module:
    """Make a classifier with ``classes`` outputs, not yet trained: `Architecture.make` of what ``arch`` stands for."""
    return architecture(arch).make(classes, size)


@contextmanager
def takes(name: str, images: Tensor) -> Iterator[None]:
    """A block in which the teacher ``name`` passes ``images`` (B, 3, H, W) for the first time.

    Raises:
        UserError: it does not take images of this size, or memory runs out.
    """
    try:
        with enough_memory(f"the teacher {name} on {images.device}", OTHER_PLACE):
            yield
    except UserError:
        raise
    except Exception as error:  # whatever a module raises on images that do not fit
        height, width = images.shape[-2:]
        own = ""
        with suppress(UserError):  # a teacher under a name of its own
            if size := architecture(name).size:
                own = f" Its own weights are for {size} pixels: choose these with --kvbench-set size={size}."
        raise UserError(
            f"The teacher {name} does not take images of {height} by {width} pixels ({sentence(error)[:300]}).{own}"
        ) from error


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


def pretrained(arch: str | Factory, classes: tuple[str, ...]) -> Teacher:
    """Load the pretrained weights of ``arch``, which its library downloads or finds in its cache.

    ``classes`` are the data's: some of those that the weights know, by their names (ImageNet's WordNet ids), or as many
    others, which are then taken to be the outputs in their order. A function of yours returns a module with its weights
    in it, whose outputs are taken to be ``classes``, in their order.

    Raises:
        UserError: the weights know other classes, or they cannot be downloaded or read.
    """
    found = architecture(arch)
    known = found.classes or ()
    if {*classes} & {*known}:
        _outputs(found.name, known, classes)  # before anything is downloaded
    elif found.outputs not in (None, len(classes)):
        which = f"by their WordNet ids, such as {known[0]}" if known else "the same"
        raise UserError(
            f"The pretrained weights of {found.name} know {found.outputs:,} classes{' of ImageNet' * bool(known)}, and"
            f" the data's {len(classes):,} are not named {which}: {shorten(classes)}. Instead, {MEND}."
        )
    module = found.trained(len(classes))
    return frozen(found.name, module, known if {*classes} & {*known} else None, found.code(module))


def from_checkpoint(path: Path, arch: str | Factory, classes: tuple[str, ...], size: int = 0) -> Teacher:
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
    kind = architecture(arch)
    name, unused = kind.name, kind.unused
    found = read_tensors(path)
    facts, known = _record(path), wnids()
    recorded = tuple(facts.get("classes", ())) or None
    if facts.get("arch", name) != name:
        raise UserError(
            f"The checkpoint {path} is of {facts['arch']}, by the record beside it, not of {name}: name its"
            f" architecture with --kvbench-teacher {facts['arch']}."
        )
    # ImageNet's weights serve data of some of its classes; those for images of another size are refused when they run.
    names = [recorded or classes] + ([known] if not recorded and {*classes} <= {*known} else [])
    sizes = [size, 0] if kind.one_size else [size]
    misfit = None
    for outputs, side in dict.fromkeys((one, side) for one in names for side in sizes):
        module = kind.make(len(outputs), side)
        if state := fitting(path, found, module.state_dict(), unused):
            break
        whose = f"the {len(outputs):,} classes of {path.with_suffix('.json')}"
        whose = whose if recorded else f"the data's {len(outputs):,} classes"
        misfit = misfit or describe_misfit(path, found, module.state_dict(), unused, name, whose)
    else:
        assert misfit is not None
        raise misfit
    module.load_state_dict({k: state[k].to(v.dtype) if k in state else v for k, v in module.state_dict().items()})
    _outputs(name, outputs, classes)
    return frozen(name, module, outputs, kind.code(module))


def _record(path: Path) -> dict[str, Any]:
    """What `kvbench teacher train` left beside a checkpoint; empty where there is nothing of the kind."""
    try:
        facts = read_json(path.with_suffix(".json"))
    except UserError:
        return {}
    classes, arch = (facts.get("classes"), facts.get("arch", "")) if isinstance(facts, dict) else (None, "")
    usable = isinstance(classes, list) and all(isinstance(name, str) for name in [*classes, arch])
    return facts if usable else {}


def tappable(arch: str | Factory, size: int | None = None) -> list[Tap]:
    """What can be tapped of ``arch``, for images of ``size`` pixels; None: of the size that its weights are for.

    Nothing is downloaded: an architecture that a library knows by its name is looked at without weights.

    Example:
        >>> {tap.path: tap.shape for tap in tappable("swin_t")}["features.7"]
        (7, 7, 768)

    Raises:
        UserError: there is no such architecture, or it does not take images of this size.
    """
    found = architecture(arch)
    side = size or found.size or USUAL
    module = found.outline(side)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return _look(found.name, module, torch.zeros(1, 3, side, side, device=device))


def default_taps(arch: str | Factory, teacher: Teacher, images: Images) -> tuple[str, ...]:
    """What is tapped of a teacher where nobody names taps: the last three stages of ``arch``.

    They are found for images of the size that its weights are for, and do not depend on the data; where that size is
    not known, by passing the first of ``images``. ResNet18's are the source's: its last three blocks.

    Example:
        >>> default_taps("swin_t", teacher, images)
        ('features.3', 'features.5', 'features.7')

    Raises:
        UserError: there are no three stages, or the teacher does not take the image.
    """
    found = architecture(arch)
    if found.taps:
        return found.taps
    if found.size:
        taps = tappable(arch)
    else:
        taps = _look(found.name, teacher.module, next(batches(images, 1, [0], workers=0))[0].to(teacher.device))
    if stages := last_stages(taps):
        return stages
    maps = [tap.path for tap in taps if tap.places > 1] or [tap.path for tap in taps]
    raise UserError(
        f"{found.name} has no three stages that can be told: name its taps, shallow to deep, with --kvbench-taps, such"
        f" as {','.join(maps[-3:])}."
    )


def _look(name: str, module: nn.Module, image: Tensor) -> list[Tap]:
    with takes(name, image):
        return find_taps(module, image[0])
