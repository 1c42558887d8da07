"""The source's training, read plainly: the teacher sees every batch of images, no bank, no code of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.recipe import Recipe
from kvbench.data.base import Images


class Hook:
    """Keeps a block's latest output, averaged to 1x1 and flattened."""

    def __init__(self, block: nn.Module):
        self.handle = block.register_forward_hook(self)
        self.feature = torch.empty(0)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.feature = F.adaptive_avg_pool2d(output, (1, 1)).flatten(1)


def train(
    teacher: nn.Module,
    student: nn.Module,
    taps: Sequence[int],
    train_images: Images,
    val_images: Images,
    recipe: Recipe,
    seed: int,
) -> list[dict[str, Any]]:
    """Train ``student`` in place; returns train_loss, val_loss, val_accuracy and agreement of every epoch."""
    teacher.eval()
    blocks = [block for layer in ("layer1", "layer2", "layer3", "layer4") for block in getattr(teacher, layer)]
    hooks = [Hook(block) for block in blocks]
    criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
    optimizer = torch.optim.Adam(student.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = (
        torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5) if recipe.schedule == "step" else None
    )
    order = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(recipe.epochs):
        losses = []
        student.train()
        for rows in torch.split(torch.randperm(len(train_images), generator=order), recipe.batch_size):
            images, _labels = train_images.__getitems__(rows.tolist())
            with torch.no_grad():
                target = F.log_softmax(teacher(images), dim=1)
            loss = criterion(F.log_softmax(student([hooks[tap].feature for tap in taps]), dim=1), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if scheduler:
            scheduler.step()
        student.eval()
        with torch.no_grad():
            images, labels = val_images.__getitems__([*range(len(val_images))])
            logits = teacher(images)
            out = student([hooks[tap].feature for tap in taps])
            history.append(
                {
                    "train_loss": sum(losses) / len(losses),
                    "val_loss": criterion(F.log_softmax(out, dim=1), F.log_softmax(logits, dim=1)).item(),
                    "val_accuracy": (out.argmax(1) == labels).float().mean().item(),
                    "agreement": (out.argmax(1) == logits.argmax(1)).float().mean().item(),
                }
            )
    for hook in hooks:
        hook.handle.remove()
    return history
