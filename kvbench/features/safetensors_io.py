"""Writing safetensors files straight from the tensors' memory.

safetensors' own writer makes a temporary file of a name of its own, which a kill leaves behind for good, and tells a
full disk by an error that is no `OSError`. Reading is safetensors' affair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvbench.core.bank import memory

NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # the format's


def header(metadata: Mapping[str, str], described: Mapping[str, Any], alignment: int) -> bytes:
    """The bytes before the first tensor, their number a multiple of ``alignment``.

    ``described``: dtype, shape and data_offsets of every tensor by its name, in the file's order.
    """
    text = json.dumps({"__metadata__": metadata, **described}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % alignment)
    return len(text).to_bytes(8, "little") + text


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; raises `OSError` where it cannot be written, `KeyError` for a dtype not in `NAMES`."""
    # The widest numbers first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0]))
    described: dict[str, Any] = {}
    start = 0
    for name, value in ordered:
        end = start + value.nbytes
        described[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
        start = end
    with path.open("wb") as file:
        file.write(header(metadata, described, 8))
        for _, value in ordered:
            file.write(memory(value))
