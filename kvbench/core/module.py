"""What a student's module holds, and what its own code raises."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from types import FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kvbench.core.bank import FeatureBank, bytes_of
from kvbench.utils.errors import UserError, describe
from kvbench.utils.oom import out_of_memory

OF_EVERY_MODULE = {"_parameters", "_buffers", "_modules", "training"}


def materialize(name: str, module: nn.Module, train: FeatureBank) -> None:
    """Give lazy parameters their shapes, by a forward pass in evaluation mode, and check what would be trained.

    Raises:
        UserError: a parameter stays without a shape, is on the meta device, or is trained and no real number, or has
            several in one place.
    """
    with torch.no_grad():
        if any(is_lazy(tensor) for _, tensor in state(module)):
            module.eval()
            xs = [tap[:2].to("cpu", torch.float32, copy=True) for tap in train.taps]
            call(name, module, xs, "evaluation")
    for path, tensor in state(module):
        if is_lazy(tensor):
            raise UserError(f"The student {name} has a lazy parameter {path} that its forward pass does not use.")
        if tensor.is_meta:
            raise UserError(
                f"The student {name} has {path} on the meta device, which holds no numbers: make it on the CPU."
            )
        if tensor.requires_grad and _in_memory(tensor) and torch._debug_has_internal_overlap(tensor) == 1:
            # A fused step would write behind its end.
            raise UserError(
                f"The student {name} trains {path}, of which several numbers lie in one place in memory, as expand"
                " leaves them: make it of a copy (x.contiguous())."
            )
        if tensor.requires_grad and not tensor.is_floating_point():
            raise UserError(
                f"The student {name} trains {path}, which is {dtype_name(tensor.dtype)}; valid are real floating point"
                " numbers: hold the real and imaginary parts in two parameters (torch.view_as_real)."
            )


def state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers by name, those included that a state dict leaves out."""
    return chain(module.named_parameters(), module.named_buffers())


def attributes(module: nn.Module) -> dict[str, object]:
    """What a module and those in it hold apart from parameters and buffers, by name, as something to compare.

    Modules that have a ``get_extra_state`` of their own say there what they hold. Parameters and buffers that are
    attributes a second time, as in ``nn.LSTM``, are left out; what is set on one of them is not.
    """
    parts = dict(module.named_modules())
    tensors = dict(state(module))
    own = {tensor.data_ptr() for tensor in tensors.values() if _in_memory(tensor)} - {0}
    seen: dict[int, tuple[int, object]] = {id(part): (i, part) for i, part in enumerate(parts.values())}
    values = {f"{path}.{name}": value for path, tensor in tensors.items() for name, value in vars(tensor).items()}
    for path, part in parts.items():
        if type(part).get_extra_state is nn.Module.get_extra_state:
            values |= {f"{path}.{name}".strip("."): x for name, x in vars(part).items() if name not in OF_EVERY_MODULE}
    return {name: _content(value, own, seen) for name, value in values.items()}


def _in_memory(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie in memory of its own: not sparse, not on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_meta


def _content(  # noqa: PLR0911 (a table of types)
    value: object, own: Collection[int], seen: dict[int, tuple[int, object]], depth: int = 10
) -> object:
    """What a value holds, to its depth: equal later if nothing in it has changed.

    Of an iterator nobody can tell where it is: it is equal to nothing.

    Args:
        value: anything.
        own: addresses of memory whose content does not count.
        seen: by id, the number of each object met before; they are kept alive, since ids are used again.
        depth: how many levels to descend.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, Tensor):
        changes = _in_memory(value) and value.data_ptr() not in own
        content = hashlib.sha256(bytes_of(value)).digest() if changes else b""
        return str(value.dtype), tuple(value.shape), content
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, Iterator):
        return object()
    if id(value) in seen:
        return seen[id(value)][0]
    if isinstance(value, (type, ModuleType)) or not depth:
        return type(value).__name__
    seen[id(value)] = len(seen), value
    return [type(value).__name__, *(_content(inner, own, seen, depth - 1) for inner in _parts(value))]


def _parts(value: object) -> list[object]:
    """What an object consists of, as far as it can tell."""
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, Mapping):
        return [inner for item in value.items() for inner in item]
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, FunctionType):
        with suppress(ValueError):  # of a variable that has no value yet
            return [value.__defaults__, vars(value), *(cell.cell_contents for cell in value.__closure__ or ())]
    try:
        found = value.__reduce_ex__(4)  # how `copy` and `pickle` take an object apart; nothing is pickled
    except Exception:
        return [getattr(value, "__dict__", None)]
    return [found] if isinstance(found, str) else list(found[1:3])


def call(name: str, module: nn.Module, xs: list[Tensor], mode: str) -> Tensor:
    """Call a student; raises what `failure` makes of an error."""
    try:
        out: Tensor = module(xs)
    except Exception as error:
        raise failure(name, f"{mode} mode", len(xs[0]), error) from error
    return out


def failure(name: str, where: str, count: int, error: Exception) -> Exception:
    """What to raise for an error of a student's own code."""
    if isinstance(error, UserError) or out_of_memory(error):
        return error
    text = f"The student {name} fails in {where} on a batch of {count} {'sample' if count == 1 else 'samples'}"
    if count == 1 and where != "evaluation mode":
        return UserError(
            f"{text} ({describe(error)}). An epoch's last batch has one sample, too few for BatchNorm, say: choose"
            " another batch size or number of images."
        )
    return UserError(f"{text}: {describe(error)}. It is called with a list of tap features (B, D), shallow to deep.")


def dtype_name(dtype: torch.dtype) -> str:
    """A type of numbers for a sentence: ``float32``."""
    return str(dtype).removeprefix("torch.")
