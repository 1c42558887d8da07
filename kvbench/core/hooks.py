"""Taps: forward hooks that capture a teacher's outputs by module path, and the pooling that follows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.recipe import POOLINGS
from kvbench.utils.errors import UserError, unknown


@contextmanager
def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Capture the output of each tap at every forward pass of ``module`` inside the block.

    Yields a dictionary from tap to its latest output, filled by the forward pass. Every hook is removed when the block
    ends, however it ends.

    Raises:
        UserError: a tap is no module path of ``module``; the nearest names are given.
    """
    modules = dict(module.named_modules())
    captured: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for tap in taps:
            if not tap or tap not in modules:
                near = difflib.get_close_matches(tap, modules, n=5, cutoff=0.3) or list(modules)[1:6]
                raise UserError(f"No tap {tap!r}: the teacher has no such module. Nearest names: {', '.join(near)}.")

            def keep(_module: nn.Module, _inputs: Any, output: Any, tap: str = tap) -> None:
                if not isinstance(output, Tensor):
                    raise UserError(
                        f"Tap {tap!r} gives {type(output).__name__}, not one tensor: choose another module."
                    )
                captured[tap] = output.clone()  # an in-place layer behind the tap would change it

            handle = modules[tap].register_forward_hook(keep)
            hooks.callback(handle.remove)
        yield captured


def pool(outputs: Sequence[Tensor], pooling: str) -> list[Tensor]:
    """Pool and flatten tap outputs, shallow to deep, to (B, D) each.

    ``global`` averages a map (B, C, H, W) to (B, C), as the source does in effect. ``pyramid``, its evident intent,
    averages to as many cells a side as the map is larger than the deepest one: 1, 2, 4, 8 for layer4 to layer1 of a
    ResNet. Tokens (B, T, D) are averaged over T; vectors (B, D) stay.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    deepest = outputs[-1].shape
    pooled = []
    for x in outputs:
        if x.ndim == 4:
            cells = (1, 1)
            if pooling == "pyramid" and len(deepest) == 4:
                cells = (max(1, round(x.shape[2] / deepest[2])), max(1, round(x.shape[3] / deepest[3])))
            pooled.append(F.adaptive_avg_pool2d(x, cells).flatten(1))
        elif x.ndim == 3:
            pooled.append(x.mean(1))
        elif x.ndim == 2:
            pooled.append(x)
        else:
            raise UserError(f"A tap gives a tensor of shape {tuple(x.shape)}: taps need 2, 3 or 4 dimensions.")
    return pooled
