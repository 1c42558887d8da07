"""The feature bank: what students see of a split, and all that decides it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from kvbench.core.numerics import default_numerics

# Relative: more than platforms' passes differ by. In float32 8 units in the last place; in halves 1, which is what a
# pass in bfloat16 was measured to differ by from one in float32 (0.003 to 0.004, RMS).
ROUNDING = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
CHUNK = 65536  # rows: a copy of a column may not fit in memory
PROJECTIONS = 4


class Parts(Tensor):
    """A column (N, D) that lies in several tensors on the CPU, such as mapped files, and is used like one tensor.

    Some rows of it are copies of these alone: ``column[rows]``, ``column[8:24]``; anything else makes a copy of all.

    Args:
        parts: (n, D) each, as many rows as the first, but for the last.
        digest: names the contents, bit by bit.

    Example:
        >>> column = Parts([torch.zeros(4, 2), torch.ones(3, 2)])
        >>> column.shape, column[torch.tensor([6, 0])]
        (torch.Size([7, 2]), tensor([[1., 1.], [0., 0.]]))
    """

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # results are plain tensors

    @staticmethod
    def __new__(cls, parts: Sequence[Tensor], digest: str = "") -> Parts:
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        made: Parts = cls._make_wrapper_subclass(cls, shape, dtype=parts[0].dtype, device=parts[0].device)
        return made

    def __init__(self, parts: Sequence[Tensor], digest: str = ""):
        self.parts, self.digest = list(parts), digest
        # Rows as bytes, since numpy has no bfloat16; it takes single rows more quickly than torch.
        self._rows = [part.view(torch.uint8).numpy() for part in parts]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Parts, lambda column: torch.cat(column.parts), (args, kwargs or {}))
        return function(*args, **kwargs)

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, slice) and rows.step in {None, 1}:
            return self._slice(*rows.indices(len(self))[:2])
        chosen = rows.tolist() if isinstance(rows, Tensor) and rows.dtype == torch.int64 and rows.ndim == 1 else ()
        if not chosen or min(chosen) < 0:
            return torch.cat(self.parts)[rows]
        size, parts = len(self.parts[0]), self._rows
        gathered = np.concatenate([parts[row // size][row % size] for row in chosen])
        return torch.from_numpy(gathered).view(self.dtype).view(len(chosen), -1)

    def _slice(self, first: int, stop: int) -> Tensor:
        size = len(self.parts[0])
        touched = range(first // size, -(-stop // size))
        found = [self.parts[k][max(0, first - k * size) : stop - k * size] for k in touched]
        return found[0] if len(found) == 1 else torch.cat(found or [self.parts[0][:0]])

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        return torch.cat(self.parts).numpy(force=force)

    def __deepcopy__(self, _: Any) -> Tensor:
        return torch.cat(self.parts)


@dataclass(frozen=True)
class FeatureBank:
    """What students see of a split: ``taps`` (N, D) each, shallow to deep, ``logits`` (N, K), ``labels`` (N,).

    Taps and logits are float32, or bfloat16 or float16, in which they take half the room.
    A large column that comes from disk is a `Parts`: a tensor of which some rows can be had without all of it.
    ``built_with`` says on what they were computed, all that its parts have; see `kvbench.utils.environment.built_with`.

    Example:
        >>> bank = FeatureBank((torch.rand(8, 256), torch.rand(8, 512)), torch.rand(8, 10), torch.arange(8))
        >>> len(bank), bank.widths, bank.classes
        (8, (256, 512), 10)
    """

    taps: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor
    built_with: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each tap, shallow to deep."""
        return tuple(tap.shape[1] for tap in self.taps)

    @property
    def classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    def select(self, taps: Sequence[int]) -> FeatureBank:
        """The bank with some of its taps alone, by their indices; nothing is copied."""
        return replace(self, taps=tuple(self.taps[tap] for tap in taps))

    def copy(self) -> FeatureBank:
        """The same numbers in memory of their own."""
        taps = tuple(tap.clone() for tap in self.taps)
        return replace(self, taps=taps, logits=self.logits.clone(), labels=self.labels.clone())

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's own top-1 accuracy, the ceiling of its students'."""
        found = [logits.argmax(1) for logits in _chunks(self.logits)]
        return float((torch.cat(found) == self.labels).float().mean())

    def to(self, device: torch.device) -> FeatureBank:
        """Move all tensors; those already there stay memory-mapped."""

        def moved(column: Tensor) -> Tensor:
            if column.device == device or not isinstance(column, Parts):
                return column.to(device)
            out = torch.empty(column.shape, dtype=column.dtype, device=device)
            for to, chunk in zip(_chunks(out), _chunks(column), strict=True):
                to.copy_(chunk)
            return out

        return replace(self, taps=tuple(map(moved, self.taps)), logits=moved(self.logits), labels=moved(self.labels))

    @default_numerics()
    def perturbed(self, seed: int = 0) -> FeatureBank:
        """A copy as another platform might have left it: each feature and logit times 1 + `ROUNDING` * N(0, 1)."""
        noise = torch.Generator().manual_seed(seed)

        def rounded(x: Tensor) -> Tensor:
            factor = 1 + ROUNDING[x.dtype] * torch.randn(x.shape, generator=noise)
            return (x * factor.to(x.device)).to(x.dtype)

        return FeatureBank(tuple(rounded(tap) for tap in self.taps), rounded(self.logits), self.labels)

    @property
    def digest(self) -> str:
        """Names the contents, bit by bit."""
        hashed = hashlib.sha256()
        for tensor in (*self.taps, self.logits, self.labels):
            known = tensor.digest if isinstance(tensor, Parts) else ""
            hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}{known}".encode())
            for rows in () if known else _chunks(tensor):
                hashed.update(bytes_of(rows))
        return hashed.hexdigest()[:16]

    def projections(self) -> list[list[float]]:
        """Random projections of each tap and of the logits, by which banks are told apart up to rounding.

        A column's is the sum of its numbers with random signs, those of a row times those of a feature, over the root
        of how many they are: about as large as the numbers themselves, and another one if rows change places. Signs are
        the same everywhere. Of more than 65,536 rows as many are taken, evenly spaced.

        Returns:
            `PROJECTIONS` numbers for each tap, shallow to deep, and for the logits.

        Example:
            >>> bank = FeatureBank((torch.ones(8, 2), torch.ones(8, 4)), torch.rand(8, 10), torch.arange(8))
            >>> [len(column) for column in bank.projections()]
            [4, 4, 4]
        """
        rows = torch.linspace(0, len(self) - 1, min(len(self), CHUNK), dtype=torch.float64).round().long()
        return [project(column, rows) for column in (*self.taps, self.logits)]

    def batch(self, rows: Tensor | slice) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gather rows: tap features (B, D) each and teacher logits (B, K), in float32, labels (B,).

        All are copies: a student that writes into its inputs leaves the bank alone.
        """
        view = isinstance(rows, slice)
        taps = [tap[rows].to(torch.float32, copy=view) for tap in self.taps]
        return taps, self.logits[rows].to(torch.float32, copy=view), self.labels[rows]


def project(column: Tensor, rows: Tensor | None = None) -> list[float]:
    """`PROJECTIONS` sums of the numbers of a matrix (N, D), or of some rows, as `FeatureBank.projections` says."""
    rows = torch.arange(len(column)) if rows is None else rows
    draws = np.random.RandomState(0)
    width = column.shape[1]
    of_rows, of_features = (draws.choice((-1.0, 1.0), (n, PROJECTIONS)) for n in (len(rows), width))
    total = np.zeros(PROJECTIONS)
    for first in range(0, len(rows), 4096):
        chosen = slice(first, first + 4096)
        # Not every accelerator has float64.
        total += (of_rows[chosen] * (column[rows[chosen]].cpu().double().numpy() @ of_features)).sum(0)
    return [float(number) for number in total / np.sqrt(max(1, len(rows) * width))]


def _chunks(column: Tensor) -> Iterator[Tensor]:
    return (column[first : first + CHUNK] for first in range(0, len(column), CHUNK))


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor (of any shape, on any device), contiguous; those of one on the CPU are no copy."""
    # Through bytes, since numpy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
