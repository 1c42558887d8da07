"""Training a teacher from scratch: the command behind the weights that the package ships."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as serialized
from torch import Tensor, nn

from kvbench.core.numerics import default_numerics, random_state_kept, seed_everything
from kvbench.core.recipe import TeacherRecipe
from kvbench.data.base import Images
from kvbench.data.contract import check_repeatable, check_splits
from kvbench.data.fractals import mix
from kvbench.data.loader import batches
from kvbench.features.architecture import Factory, architecture
from kvbench.features.teacher import build, check_logits, from_checkpoint, takes
from kvbench.utils.environment import environment
from kvbench.utils.errors import UserError
from kvbench.utils.files import atomic_write, need_writable, write_bytes, write_text
from kvbench.utils.oom import OTHER_PLACE, enough_memory
from kvbench.utils.progress import OnProgress, Progress, ignore

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 200  # steps: a few minutes on two cores
SHIFT = 4  # pixels that augmentation may move a 64-pixel image, in proportion for others


@dataclass(frozen=True)
class TeacherTask:
    """What to train: everything that decides the weights, apart from the machine.

    ``arch`` is what `architecture` takes; ``train`` is what it is trained on, ``val`` what it is measured on.
    """

    arch: str | Factory
    train: Images
    val: Images
    recipe: TeacherRecipe
    seed: int

    @property
    def name(self) -> str:
        """The architecture's name."""
        return architecture(self.arch).name


@default_numerics()
def train_teacher(
    task: TeacherTask, out: Path, device: torch.device, command: str, on_progress: OnProgress = ignore
) -> dict[str, Any]:
    """Train, and write ``out`` (fp16 safetensors) and ``out`` with suffix ``.json`` (provenance, returned).

    Goes on from ``out`` with suffix ``.checkpoint`` where an interrupted training of the same task left one. A batch is
    the whole split where that is smaller. ``command`` is kept in the record.

    Example:
        >>> task = TeacherTask("resnet18", train, val, TeacherRecipe(epochs=10), seed=0)
        >>> train_teacher(task, Path("teachers/mine.safetensors"), torch.device("cpu"), "by hand")["val_accuracy"]
        0.831

    Raises:
        UserError: the checkpoint belongs to another task, the validation split has other classes, the architecture does
            not take the images' size, the loss is not finite, or ``out`` does not end in ``.safetensors``.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"Cannot write weights to {out}: name a file that ends in .safetensors.")
    need_writable(out.parent)
    check_splits(task.train, task.val, None)
    for images in (task.train, task.val):
        check_repeatable(images)
    recipe = replace(task.recipe, batch_size=min(task.recipe.batch_size, len(task.train)))
    task = replace(task, recipe=recipe)
    data = task.train.fingerprint  # once: it looks at every file
    first = next(batches(task.train, 1, [0], workers=0))[0]
    what = f"training {task.name} on {task.recipe.batch_size} images at a time on {device}"
    with enough_memory(what, OTHER_PLACE), random_state_kept(device):
        module = _fit(task, first, data, out.with_suffix(".checkpoint"), device, on_progress)
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in module.cpu().state_dict().items()}
    out.with_suffix(".json").unlink(missing_ok=True)  # it names the classes of the weights that were there
    write_bytes(out, serialized(state))  # into a file itself, safetensors hides what a full disk says
    # Accuracy is that of the file as it ships, half precision and all.
    teacher = from_checkpoint(out, task.arch, task.train.classes, first.shape[-1]).module.to(device)
    facts = {
        "command": command,
        "arch": task.name,
        "seed": task.seed,
        "recipe": asdict(task.recipe),
        "images_seen": _steps(task) * task.recipe.batch_size,
        **accuracy(teacher, task.val, device),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "data": data,
        **environment(device),
        "classes": list(task.train.classes),
    }
    write_text(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    out.with_suffix(".checkpoint").unlink(missing_ok=True)
    return facts


def _steps(task: TeacherTask) -> int:
    return task.recipe.epochs * (len(task.train) // task.recipe.batch_size)


def _fit(
    task: TeacherTask,
    first: Tensor,
    data: dict[str, Any],
    checkpoint: Path,
    device: torch.device,
    on_progress: OnProgress,
) -> nn.Module:
    """Train a module; ``first`` is the first image (1, 3, size, size), ``data`` the fingerprint of all."""
    recipe = task.recipe
    seed_everything(task.seed, device)
    module = build(task.arch, len(task.train.classes), first.shape[-1])
    module = module.to(memory_format=torch.channels_last).to(device)
    first = first.to(device)
    with torch.no_grad(), takes(task.name, first):
        check_logits(task.name, module.eval()(first), len(first))
    optimizer = torch.optim.SGD(
        module.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    total = _steps(task)
    # Of 5 steps, a fifth ends where the warm-up begins, which OneCycleLR divides by.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=total, pct_start=0.2 if total != 5 else 0.25
    )
    identity = json.dumps([task.name, asdict(recipe), task.seed, data], sort_keys=True)
    parts: dict[str, Any] = {"module": module, "optimizer": optimizer, "scheduler": scheduler}
    step = _resume(checkpoint, identity, parts, total)
    per_epoch = total // recipe.epochs
    module.train()
    while step < total:
        epoch, within = divmod(step, per_epoch)
        order = torch.randperm(len(task.train), generator=_generator(task.seed, 0, epoch))
        rest = order[within * recipe.batch_size : per_epoch * recipe.batch_size].tolist()
        for images, labels in batches(task.train, recipe.batch_size, rest):
            images, labels = images.to(device), labels.to(device)
            if recipe.augment:
                images = augment(images, _generator(task.seed, 1, step))
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(module(images.contiguous(memory_format=torch.channels_last)), labels)
            if not torch.isfinite(loss):
                raise UserError(f"Training {task.name} diverged at step {step + 1} of {total}: choose a smaller --lr.")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            step += 1
            on_progress(Progress(f"teacher, epoch {epoch + 1}, loss {loss.item():.3f}", step, total, "step"))
            if step % CHECKPOINT_EVERY == 0 or step % per_epoch == 0:
                states = {name: part.state_dict() for name, part in parts.items()}
                buffer = io.BytesIO()  # into a file, torch reports a full disk by an error like any other
                torch.save({"identity": identity, "step": step, **states}, buffer)
                with atomic_write(checkpoint) as path:
                    path.write_bytes(buffer.getbuffer())
                logger.info("step %d of %d, loss %.3f", step, total, loss.item())
    return module


def _generator(*keys: int) -> torch.Generator:
    """A generator for one epoch or step alone, so that a resumed training draws what an undisturbed one would."""
    return torch.Generator().manual_seed(int(mix(*keys)))


def _resume(checkpoint: Path, identity: str, parts: dict[str, Any], total: int) -> int:
    """Load ``parts`` from ``checkpoint`` and return its step, or 0 where there is none."""
    if not checkpoint.exists():
        return 0
    try:
        saved = torch.load(checkpoint, "cpu", weights_only=True)
    except Exception as error:  # as in `kvbench.features.checkpoint.read_tensors`
        raise UserError(f"{checkpoint} is damaged: remove it, and the training starts again.") from error
    if not isinstance(saved, dict) or saved.get("identity") != identity:
        raise UserError(
            f"{checkpoint} is left from a training with other settings: remove it, or write to another file."
        )
    step = saved.get("step")
    if type(step) is not int or not 0 < step <= total or not _fits(saved, step, parts):
        raise UserError(f"{checkpoint} holds no state of this training: remove it, and the training starts again.")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return step


def _fits(saved: dict[str, Any], step: int, parts: dict[str, Any]) -> bool:
    """Whether saved states have the names, types and shapes that these parts have after ``step`` steps."""
    module, optimizer, scheduler = (parts[name].state_dict() for name in ("module", "optimizer", "scheduler"))
    weights = [p for group in parts["optimizer"].param_groups for p in group["params"]]
    momenta = {index: {"momentum_buffer": value} for index, value in enumerate(weights)}
    return (
        _outline(saved.get("module")) == _outline(dict(module))
        and _outline(saved.get("optimizer")) == _outline({**optimizer, "state": momenta})
        and _outline(saved.get("scheduler")) == _outline(scheduler)
        and saved["scheduler"].get("last_epoch") == step
    )


def _outline(value: Any) -> object:
    """Names, types and shapes without the numbers; of what is no plain data, its type."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.layout
    if isinstance(value, dict):
        return {key: _outline(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_outline(inner) for inner in value]
    return type(value)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image (B, C, H, W) left to right with probability 1/2 and shift it by up to a sixteenth of its side."""
    batch, _, height, width = images.shape
    reach = max(1, height * SHIFT // 64)
    flip = (torch.rand(batch, generator=generator) < 0.5).to(images.device)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, [reach] * 4, mode="reflect")
    top, left = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    index = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[index, channel, rows, columns]


@torch.inference_mode()
def accuracy(module: nn.Module, images: Images, device: torch.device) -> dict[str, float]:
    """Top-1 accuracy on ``images``, their number, and the mean entropy of the module's soft targets in nats."""
    correct, entropy = 0, 0.0
    for batch, labels in batches(images, 256):
        log_p = F.log_softmax(module(batch.to(device)).float(), 1)
        if not torch.isfinite(log_p).all():
            raise UserError("The trained weights give logits that are not finite in half precision: lower --lr.")
        correct += int((log_p.argmax(1).cpu() == labels).sum())
        entropy -= float((log_p.exp() * log_p).sum())
    return {"val_accuracy": correct / len(images), "val_count": len(images), "val_entropy_nats": entropy / len(images)}
