"""No global switch of torch, numpy, Pillow or warnings decides a pixel."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kvbench.data.contract import read_checked
from kvbench.data.fractals import FractalImages, systems
from kvbench.data.layouts import image_folder, subset
from kvbench.data.loader import batches
from kvbench.data.photos import PhotoImages
from tests.support.photos import draw_folder


@contextmanager
def switched(switch: Callable[[Any], object], value: object, before: object) -> Iterator[None]:
    switch(value)
    try:
        yield
    finally:
        switch(before)


def seeds(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@contextmanager
def errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


SWITCHES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "default dtype": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "half dtype": lambda: switched(torch.set_default_dtype, torch.float16, torch.float32),
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "products": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "denormals": lambda: switched(torch.set_flush_denormal, True, False),
    "threads": lambda: switched(torch.set_num_threads, 2, torch.get_num_threads()),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "numpy's errors": lambda: np.errstate(all="raise"),
    "warnings": errors,
    "seeds": lambda: switched(seeds, 7, 0),
}


def seen(root: Path) -> tuple[Tensor, ...]:
    """Pixels and labels of generated images and photographs, chosen and read as a run does it."""
    systems.cache_clear()
    fractals = FractalImages("val", 6, classes=5, size=16)
    samples, classes = image_folder(root, "train")
    photos = PhotoImages(subset(samples, 4), classes, 8, root)
    found = [part for images in (fractals, photos) for part in read_checked(images, [0, 2, 3])]
    return (*found, *next(batches(photos, 4, workers=0)))


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_decides_a_pixel_or_is_left_changed(switch: str, tmp_path: Path) -> None:
    expected = seen(draw_folder(tmp_path))
    with SWITCHES[switch]():
        state = torch.get_default_dtype(), torch.get_rng_state(), torch.is_inference_mode_enabled(), np.geterr()
        found = seen(tmp_path)
        after = torch.get_default_dtype(), torch.get_rng_state(), torch.is_inference_mode_enabled(), np.geterr()
    assert str(after) == str(state)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert not one.is_inference()
        assert torch.equal(one, other)
