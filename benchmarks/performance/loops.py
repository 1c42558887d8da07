"""The other ways to train the same heads, written plainly: nothing here is kvbench's trainer or its banks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.performance.material import TAPS


class Tapped:
    """A frozen teacher whose last blocks' outputs are hooked, averaged to one cell and kept."""

    def __init__(self, teacher: nn.Module):
        self.teacher = teacher
        self.kept: dict[str, Tensor] = {}
        for tap in TAPS:
            teacher.get_submodule(tap).register_forward_hook(
                lambda _module, _inputs, output, tap=tap: self.kept.update(
                    {tap: F.adaptive_avg_pool2d(output, (1, 1)).flatten(1)}
                )
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of every tap (B, D), shallow to deep, and logits (B, K), of images (B, 3, size, size)."""
        logits = self.teacher(images)
        return [self.kept[tap] for tap in TAPS], logits


class SourceLoop:
    """The source's loop: the teacher sees every batch of every epoch of every configuration."""

    def __init__(self, teacher: Tapped, head: nn.Module, lr: float = 1e-3, weight_decay: float = 1e-4):
        self.teacher, self.head = teacher, head
        self.criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
        trained = [p for p in head.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr, weight_decay=weight_decay, fused=True)

    def step(self, images: Tensor) -> float:
        """Train on one batch; returns its loss."""
        features, target = self.teacher(images)
        loss = self.criterion(F.log_softmax(self.head(features), 1), F.log_softmax(target, 1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class HeadsLoop:
    """All heads in one pass, as DINOv2's linear evaluation trains them: the teacher sees every batch of every epoch."""

    def __init__(self, teacher: Tapped, heads: Sequence[nn.Module], lr: float = 1e-3, weight_decay: float = 1e-4):
        self.teacher, self.heads = teacher, heads
        self.criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
        self.optimizers = [
            torch.optim.Adam([p for p in h.parameters() if p.requires_grad], lr, weight_decay=weight_decay, fused=True)
            for h in heads
        ]

    def step(self, images: Tensor) -> list[float]:
        """Train every head on one batch; returns their losses."""
        features, logits = self.teacher(images)
        target = F.log_softmax(logits, 1)
        losses = [self.criterion(F.log_softmax(head(features), 1), target) for head in self.heads]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        return [float(loss.detach()) for loss in losses]


@torch.inference_mode()
def teacher_pass(teacher: nn.Module, images: Tensor) -> Tensor:
    """The unit: a plain pass of the teacher over a batch."""
    logits: Tensor = teacher(images)
    return logits
