"""The switches of torch, numpy and warnings that decide numbers, at their defaults while kvbench computes."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

BACKENDS = (("cudnn", "enabled", True), ("cudnn", "benchmark", False), ("cudnn", "deterministic", True),
            ("mkldnn", "enabled", True))  # fmt: skip
# Which of several kernels computes attention: getter and setter; all are on by default.
ATTENTION = [(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)] + [
    (getattr(torch.backends.cuda, f"{kernel}_sdp_enabled"), getattr(torch.backends.cuda, f"enable_{kernel}_sdp"))
    for kernel in ("flash", "mem_efficient", "math", "cudnn")
]
# What float32 numbers may be rounded to before they are multiplied has a switch for each of these since torch 2.9.
PRODUCTS = [getattr(getattr(torch.backends, library), operation)
            for library, operation in (("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"), ("mkldnn", "matmul"),
                                       ("mkldnn", "conv"), ("mkldnn", "rnn"))
            if hasattr(torch.backends, "fp32_precision")]  # fmt: skip
NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}  # numpy's own defaults


def accelerator() -> torch.device | None:
    """The accelerator that torch would choose; None where there is none, of which torch 2.6 makes an error."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


@contextmanager
def default_numerics() -> Iterator[None]:
    """A block, or a decorated function, whose numbers depend on no global switch; all are as before afterwards.

    Covers torch's default dtype and device, grad and inference mode, autocast, anomaly detection, deterministic
    algorithms, reduced precision (TF32, bfloat16) of float32 products, the kernels of attention, flushed denormals;
    numpy's ``seterr``; and warnings that are errors, which are shown as warnings instead.

    cuDNN is deterministic, so that what an interrupted pass left and what is made later fit bit by bit.

    Some switches belong to a thread. New threads start with defaults, apart from flushed denormals: they call
    ``torch.set_flush_denormal(False)``.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with default_numerics():
        ...     print(torch.zeros(1).dtype)
        torch.float32
    """
    with ExitStack() as stack:
        stack.enter_context(_warnings_shown())
        stack.enter_context(np.errstate(**NUMPY))  # type: ignore[arg-type]
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        if torch.get_default_device() != torch.device("cpu"):  # a device context slows every call down
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", *([here.type] if (here := accelerator()) else [])}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))

        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)

        if torch.are_deterministic_algorithms_enabled():
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warn_only)
            torch.use_deterministic_algorithms(False)

        if sys.float_info.min * 0.5 == 0:  # torch can set this, not tell it
            stack.callback(torch.set_flush_denormal, True)
            torch.set_flush_denormal(False)

        for library, name, value in BACKENDS:
            owner = getattr(torch.backends, library)
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        for get, put in ATTENTION:
            stack.callback(put, get())
            put(True)
        stack.enter_context(_full_precision())
        yield


@contextmanager
def _full_precision() -> Iterator[None]:
    """A block in which products of float32 numbers round nothing beforehand."""
    products = [product.fp32_precision for product in PRODUCTS]
    matmul = tf32 = None
    with suppress(RuntimeError):  # the older switches cannot be read where the newer ones disagree
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for product in PRODUCTS:
        if product.fp32_precision not in {"none", "ieee"}:
            product.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if tf32 is not None:
            torch.backends.cudnn.allow_tf32 = tf32
        for product, before in zip(PRODUCTS, products, strict=True):
            if product.fp32_precision != before:
                product.fp32_precision = before


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """A block in which no warning is an error."""
    filters = [("default" if first == "error" else first, *rest) for first, *rest in warnings.filters]
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filters.extend(filters)  # type: ignore[attr-defined]
        yield


class RandomState:
    """The states of all global random number generators: Python's, numpy's, torch's on the CPU and on a device.

    Args:
        device: whose generator counts, in addition to the CPU's.
    """

    def __init__(self, device: torch.device):
        self.device = device
        kind, keys, *rest = np.random.get_state()
        self.python, self.numpy = random.getstate(), (kind, np.asarray(keys).tolist(), *rest)
        self.torch = [torch.get_rng_state()]
        if device.type not in {"cpu", "meta"}:
            self.torch.append(torch.get_device_module(device).get_rng_state(device))

    @classmethod
    def from_tuple(cls, device: torch.device, states: tuple[Any, Any, list[Tensor]]) -> RandomState:
        """The states that `as_tuple` gave; raises whatever the generators raise at something else."""
        with random_state_kept(device):
            state = cls(device)
            state.python, state.numpy, state.torch = states
            state.restore()
        return state

    def as_tuple(self) -> tuple[Any, Any, list[Tensor]]:
        """The states as plain data and tensors."""
        return self.python, self.numpy, self.torch

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomState):
            return NotImplemented
        same = all(torch.equal(one, two) for one, two in zip(self.torch, other.torch, strict=True))
        return same and (self.python, self.numpy) == (other.python, other.numpy)

    __hash__ = None  # type: ignore[assignment]

    def restore(self) -> None:
        """Put all generators into these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        on_cpu, *on_device = self.torch
        torch.set_rng_state(on_cpu)
        for state in on_device:
            torch.get_device_module(self.device).set_rng_state(state, self.device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """A block after which the global random number generators are as they were before it."""
    before = RandomState(device)
    try:
        yield
    finally:
        before.restore()


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the global generators of Python, numpy and torch, the last on the CPU and on a device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type not in {"cpu", "meta"}:
        torch.get_device_module(device).manual_seed(seed)
