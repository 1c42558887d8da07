"""Our writer of tensor files, read by safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kvbench.features import safetensors_io as tensorfile


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "halves": torch.randn(3, 5).half(),
        "brain": torch.randn(2).bfloat16(),
        "transposed": torch.randn(4, 3).T,
        "part": torch.randn(10)[2:5],
        "number": torch.tensor(7.0, requires_grad=True),
        "counts": torch.tensor([2**40, -1]),
        "doubles": torch.randn(1).double(),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "n\u00e4me with spaces": torch.arange(2, dtype=torch.int32),
    }
    tensorfile.write(tmp_path / "a.safetensors", tensors, {"facts": '{"\u00fc": [1]}'})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"facts": '{"\u00fc": [1]}'}


def test_without_tensors_and_facts_it_is_a_file_all_the_same(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "a.safetensors", {}, {})
    assert load_file(tmp_path / "a.safetensors") == {}


def test_a_type_that_the_format_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="complex64"):
        tensorfile.write(tmp_path / "a.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    assert list(tmp_path.iterdir()) == []
