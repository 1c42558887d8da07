"""Checkpoints from anywhere: finding the one state dict in a file that fits a model. Code is never unpickled."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import known_content
from kvbench.utils.text import shown

States = dict[str, dict[str, Tensor]]  # the dictionaries of tensors in a file, by the keys that lead to each
MEND = (
    "train a teacher on this data with kvbench teacher train (and --workload, --root), or name weights of one with"
    " --kvbench-checkpoint"
)
TENSORS_ALONE = "save its tensors alone, torch.save(model.state_dict(), FILE)"
MOST_HEADER = 2**27  # bytes of a safetensors file's header; other files' first 8 bytes are a larger number
DEPTH = 3  # of dictionaries in dictionaries
MOST_KINDS = 200  # of objects in a file that are not read


class _Unread:
    """Takes the place of an object in a file whose class is not loaded."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _plain(*_: object) -> dict[Any, Any]:
    """A dictionary in the place of a defaultdict."""
    return {}


def read_tensors(path: Path) -> States:
    """Read every dictionary with tensors in a safetensors or ``torch.save`` file, whatever its suffix.

    Example:
        >>> read_tensors(Path("checkpoint.pt")).keys()  # {"epoch": 3, "model": {"fc.weight": ...}}
        dict_keys(['model'])

    Raises:
        UserError: there is no such file, it cannot be read, or it holds no such dictionary.
    """
    expected = f"{shown(path)} is no readable state dict (safetensors, or torch.save of tensors)"
    start = _start(path)
    tensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MOST_HEADER
    if what := "" if tensors else _something_else(path, start):
        raise UserError(f"{expected}: it is {what}.")
    content: object
    unread: list[str] = []
    try:
        if tensors:
            content = load_file(path)
        else:
            # Mapped where it can be: of files from before torch 1.6 it cannot.
            content, unread = _load(path, mmap=start.startswith(b"PK") and path.suffix != ".safetensors")
    except Exception as error:  # torch's unpickler meets other files' bytes with almost any error
        raise UserError(f"{expected}: {_reason(error)}.") from error
    states = dict(_dictionaries(content, "", set()))
    if not states and unread:
        raise UserError(
            f"{expected}: it holds objects of {unread[0]}, which are not read, since that could run code;"
            f" {TENSORS_ALONE}."
        )
    if not states:
        raise UserError(f"{shown(path)} holds no state dict: expected a dictionary from layer names to tensors.")
    return states


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except FileNotFoundError as error:
        raise UserError(f"No checkpoint file {shown(path)}.") from error
    except OSError as error:
        raise UserError(f"Cannot read the checkpoint {shown(path)}: {error.strerror}.") from error


def _something_else(path: Path, start: bytes) -> str:
    """What a file is, of which this is the start, if it cannot hold tensors."""
    if what := known_content(start):
        return what
    if not start or not zipfile.is_zipfile(path):
        return "" if start else "empty"
    with zipfile.ZipFile(path) as archive:
        names, kinds = archive.namelist(), {part.compress_type for part in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in names):
        return f"a TorchScript program: {TENSORS_ALONE}"
    if kinds - {zipfile.ZIP_STORED}:
        return "a compressed archive: unpack it first"  # torch stores: nothing becomes larger than the file
    return "" if any(name.endswith("/data.pkl") for name in names) else "an archive of other files: unpack it first"


def _load(path: Path, *, mmap: bool) -> tuple[object, list[str]]:
    """Load tensors and plain data, and nothing that runs code; objects of other classes are `_Unread`, and named."""
    unread: list[str] = []
    while True:
        # Of what is Python's own, the error names no module; it has two names there.
        full = [f"{part}{name}" for name in unread for part in ([""] if "." in name else ["builtins.", "__builtin__."])]
        stand_ins: list[Any] = [(_plain, "collections.defaultdict"), *((_Unread, name) for name in full)]
        try:
            with torch.serialization.safe_globals(stand_ins), path.open("rb") as file:
                # Where it is not mapped, as a file: torch goes by the suffix of a path.
                return torch.load(path if mmap else file, "cpu", weights_only=True, mmap=mmap), unread
        except pickle.UnpicklingError as error:
            refused = re.search(r"GLOBAL ([\w.]+)", str(error))
            if refused is None or refused[1] in unread or len(unread) == MOST_KINDS:
                if unread:
                    return {}, unread  # what is not read is part of what leads to the tensors
                raise
            unread.append(refused[1])


def _reason(error: Exception) -> str:
    if not isinstance(error, pickle.UnpicklingError):
        return "it is damaged, cut short, or something else"
    return f"it is damaged, or it holds more than can be read without running code; {TENSORS_ALONE}"


def _dictionaries(content: object, path: str, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    whole = content
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or id(whole) in seen or path.count(".") > DEPTH:
        return
    seen.add(id(whole))  # a file may hold a dictionary that holds itself
    if tensors := {key: value for key, value in content.items() if isinstance(key, str) and _usual(value)}:
        yield path, tensors
    for key, value in content.items():
        yield from _dictionaries(value, f"{path}.{key}" if path else str(key), seen)


def _usual(value: object) -> bool:
    """Whether a value is a tensor as a layer has it: dense, real, with its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


def fitting(
    path: Path, found: States, expected: Mapping[str, Tensor], unused: Sequence[str] = ()
) -> dict[str, Tensor] | None:
    """The one state dict of ``found`` that has the names and shapes of ``expected``, behind a common prefix or none.

    Left out are layers whose names start with ``unused``, and numbers beside the layers (an average's ``n_averaged``).
    Counters of batches may be missing: they decide nothing. None: nothing fits.

    Raises:
        UserError: several that differ fit.
    """
    fits: States = {}
    for where, tensors in found.items():
        prefixes: list[str] = []  # behind which everything lies that is expected
        for prefix in _prefixes(tensors, expected):
            state = _behind(prefix, tensors, unused)
            if not prefix:
                state = {
                    key: value
                    for key, value in state.items()
                    if not (key.startswith(tuple(prefixes)) or (value.ndim == 0 and "." not in key))
                }
            if not any(_differences(state, expected)):
                prefixes.append(prefix)
                fits[".".join(filter(None, (where, prefix.rstrip("."))))] = state
    first, *others = fits.values() or [None]
    if first is None:
        return None
    if any(not torch.equal(first[key], other[key]) for other in others if other is not None for key in first):
        names = [name or "the outermost" for name in fits]
        raise UserError(
            f"{shown(path)} holds {len(fits)} state dicts that fit: {shorten(names)}. Save the one that you mean in a"
            " file of its own, with torch.save."
        )
    return first


def _prefixes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What stands before the first expected layer's name, or the last one's; at the end, nothing."""
    names = [*expected]
    ends = (names[0], names[-1])
    return [*sorted({key[: -len(end)] for key in tensors for end in ends if key.endswith(f".{end}")}), ""]


def _behind(prefix: str, tensors: Mapping[str, Tensor], unused: Sequence[str]) -> dict[str, Tensor]:
    """The tensors behind a prefix, without it, and without what is not used."""
    state = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not key.startswith(tuple(unused))}


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, names that are too many, and sentences about shapes."""
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    surplus = [k for k in state if k not in expected]
    wrong = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    return missing, surplus, wrong


def describe_misfit(
    path: Path, found: States, expected: Mapping[str, Tensor], unused: Sequence[str], arch: str, classes: str
) -> UserError:
    """An error for a file in which nothing fits: how the nearest dictionary differs. ``classes`` says whose."""
    candidates = [
        _differences(_behind(prefix, tensors, unused), expected)
        for tensors in found.values()
        for prefix in _prefixes(tensors, expected)
    ]
    missing, surplus, wrong = min(candidates, key=lambda one: len(one[0]) + len(one[1]))
    problem = f"The checkpoint {shown(path)} does not fit {arch}"
    classifier = [*expected][-1].rpartition(".")[0]
    if missing and not surplus and {name.rpartition(".")[0] for name in missing} == {classifier}:
        return UserError(f"{problem}: it has no classifier, {shorten(missing)}. Teachers need one: {MEND}.")
    if missing or surplus:
        return UserError(
            f"{problem}: it lacks {shorten(missing) or 'nothing'} and has {shorten(surplus) or 'nothing'} too many."
            " Name its architecture with --kvbench-teacher."
        )
    return UserError(f"{problem} with {classes}: {'; '.join(wrong[:3])}. Instead, {MEND}.")
