"""What a teacher's name stands for: one of torchvision's classifiers, one of timm's, or a function of yours."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from kvbench.data.base import Transform
from kvbench.utils.errors import UserError, describe, raised_at, shorten, unknown

log = logging.getLogger(__name__)

SHIPPED = files("kvbench") / "weights"
SOURCES = "resnet18"  # its taps are the source's, its last three blocks, and its images are prepared as the source's
SOURCES_TAPS = ("layer3.1", "layer4.0", "layer4.1")
ONE_SIZE = ("vit_", "maxvit_")  # torchvision's architectures that are made for one size of images
# Heads that run in training alone; torchvision makes them by default, and its own weights come without them.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
LIBRARIES = ("torch", "torchvision", "timm")
TIMM = "timm:"
Factory = Callable[[int], nn.Module]  # from the number of classes


def wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, in the order of a classifier's outputs."""
    return tuple((SHIPPED / "imagenet_wnids.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class Architecture:
    """A classifier that can be made for any number of classes, and what is known of the weights that it comes with.

    ``name`` is what options, records and fingerprints call it.
    """

    name: str

    def __post_init__(self) -> None:
        """Raise `UserError` where there is none of this name."""

    @property
    def size(self) -> int | None:
        """The side in pixels of the images that its weights were made for; None: not known."""
        return None

    @property
    def one_size(self) -> bool:
        """Whether a module takes images of one size alone, that which it was made for."""
        return False

    @property
    def outputs(self) -> int | None:
        """How many outputs its weights have; None: as many as are asked for."""
        return None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of its weights' outputs; None: not known."""
        return None

    @property
    def file(self) -> Path | None:
        """Where its weights lie once they are downloaded; None: not known."""
        return None

    @property
    def unused(self) -> tuple[str, ...]:
        """Prefixes of layers that checkpoints may hold and a teacher does without."""
        return ()

    @property
    def taps(self) -> tuple[str, ...]:
        """What is tapped by default; empty: the last three stages."""
        return ()

    def make(self, classes: int, size: int = 0) -> nn.Module:
        """Make a module with ``classes`` outputs, not trained, for images of ``size`` pixels; 0: those of its weights.

        Raises:
            UserError: it cannot be made for images of this size, or the user's function fails.
        """
        raise NotImplementedError

    def outline(self, size: int = 0) -> nn.Module:
        """A module as `make` makes it, in eval mode, where it can be on torch's meta device: no memory, no numbers."""
        with _Outlines():
            module = self.make(1000, size)
        return module.to("meta").eval().requires_grad_(False)

    def trained(self, classes: int) -> nn.Module:
        """Make a module with the weights that it comes with, downloaded where they are missing; ``classes`` the data's.

        Raises:
            UserError: there are none, or they cannot be downloaded or read.
        """
        raise NotImplementedError

    def transform(self, size: int) -> Transform | None:  # noqa: ARG002
        """How images of ``size`` pixels are prepared for its weights; None: in the usual way, see `Transform`."""
        return None

    def code(self, module: nn.Module) -> str:  # noqa: ARG002
        """A digest of the code that decides what ``module`` computes; empty where the name decides it."""
        return ""


class Torchvision(Architecture):
    """One of torchvision's classification models."""

    def __post_init__(self) -> None:
        valid = torchvision.models.list_models(module=torchvision.models)
        if self.name not in valid:
            raise unknown("torchvision model", self.name, valid)

    @property
    def taps(self) -> tuple[str, ...]:
        return SOURCES_TAPS if self.name == SOURCES else ()

    @property
    def one_size(self) -> bool:
        return self.name.startswith(ONE_SIZE)

    @property
    def file(self) -> Path | None:
        if self._preset is None:
            return None
        url: str = torchvision.models.get_model_weights(self.name).DEFAULT.url
        return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    @property
    def unused(self) -> tuple[str, ...]:
        return AUXILIARY.get(self.name, ())

    @property
    def classes(self) -> tuple[str, ...]:
        return wnids()

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def size(self) -> int | None:
        preset = self._preset
        return preset.crop_size[0] if preset else None

    @cached_property
    def _preset(self) -> Any:
        """The transform of torchvision for its default weights; None where it has none."""
        with suppress(ValueError):
            return torchvision.models.get_model_weights(self.name).DEFAULT.transforms()
        return None

    def transform(self, size: int) -> Transform | None:
        preset = self._preset
        if preset is None or self.name == SOURCES:
            return None
        resize = round(size * preset.resize_size[0] / preset.crop_size[0])
        return Transform(resize, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))

    def make(self, classes: int, size: int = 0) -> nn.Module:
        settings: dict[str, Any] = {}
        if self.unused:
            settings = {"aux_logits": False, "init_weights": True}
        elif size and self.one_size:
            settings = {"image_size": size} if self.name.startswith("vit_") else {"input_size": (size, size)}
        try:
            with _warnings_logged("torchvision"):
                module: nn.Module = torchvision.models.get_model(
                    self.name, weights=None, num_classes=classes, **settings
                )
        except (AssertionError, ValueError) as error:
            if not settings:
                raise
            raise _not_for(self.name, size, error) from error
        return module

    def trained(self, classes: int) -> nn.Module:  # noqa: ARG002
        if self._preset is None:
            raise UserError(f"torchvision has no weights for {self.name}: name a file with --kvbench-checkpoint.")
        try:
            weights = torchvision.models.get_model_weights(self.name).DEFAULT
            with _warnings_logged("torchvision"):
                module: nn.Module = torchvision.models.get_model(self.name, weights=weights)
        except OSError as error:
            raise UserError(
                f"torchvision could not download its weights for {self.name} ({error}). Download {weights.url} on a"
                f" machine with a network, and put the file into {torch.hub.get_dir()}/checkpoints."
            ) from error
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"torchvision's weights for {self.name} are damaged ({error}): remove them from {torch.hub.get_dir()}."
            ) from error
        return module


class Timm(Architecture):
    """One of timm's models, named ``timm:NAME`` or, where it has several weights, ``timm:NAME.TAG``."""

    def __post_init__(self) -> None:
        own = self.name.removeprefix(TIMM)
        timm = self._timm
        base, _, tag = own.partition(".")
        if not timm.is_model(base):
            near = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.5)
            raise UserError(
                f"timm has no model {base!r}.{f' Did you mean {shorten(near)}?' if near else ''} It lists its"
                f" {len(timm.list_models()):,} models with python -c 'import timm; print(timm.list_models())'."
            )
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        if tag and tag not in tags:
            raise unknown(f"weights of {TIMM}{base}", tag, tags)

    @cached_property
    def _timm(self) -> Any:
        try:
            with _warnings_logged("timm"):
                return importlib.import_module("timm")
        except ImportError as error:
            raise UserError(f"The teacher {self.name} needs timm ({error}): pip install 'kvbench[timm]'.") from error

    @cached_property
    def _facts(self) -> Any:
        """What timm calls a PretrainedCfg."""
        return self._timm.get_pretrained_cfg(self.name.removeprefix(TIMM))

    @property
    def size(self) -> int:
        return int(self._facts.input_size[-1])

    @property
    def one_size(self) -> bool:
        return bool(self._facts.fixed_input_size)

    @property
    def outputs(self) -> int:
        return int(self._facts.num_classes)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        data = self._timm.data
        subset = data.infer_imagenet_subset(self._facts.to_dict()) if self.outputs else None
        names = tuple(data.ImageNetInfo(subset).label_names()) if subset else ()
        return names if len(names) == self.outputs else None

    def transform(self, size: int) -> Transform:
        facts = self._facts
        return Transform(int(size / facts.crop_pct), facts.interpolation, tuple(facts.mean), tuple(facts.std))

    def make(self, classes: int, size: int = 0) -> nn.Module:
        settings = {"img_size": size} if size and self.one_size else {}
        try:
            return self._create(pretrained=False, num_classes=classes, **settings)
        except (AssertionError, ValueError, TypeError) as error:
            if not settings:
                raise
            raise _not_for(self.name, size, error) from error

    def trained(self, classes: int) -> nn.Module:  # noqa: ARG002
        if not (self._facts.has_weights and self.outputs):
            raise UserError(f"{self.name} has no pretrained classifier: name weights with --kvbench-checkpoint.")
        try:
            return self._create(pretrained=True)
        except Exception as error:  # of the hub's client, or of whatever reads the file
            raise UserError(
                f"timm could not load its weights for {self.name}: {describe(error)}. Load them once on this machine"
                f" while it has a network, or save them elsewhere and name them with --kvbench-checkpoint."
            ) from error

    def _create(self, **settings: Any) -> nn.Module:
        with _warnings_logged("timm"):
            module: nn.Module = self._timm.create_model(self.name.removeprefix(TIMM), **settings)
        return module


@dataclass(frozen=True)
class Yours(Architecture):
    """A function of the user's: from the number of classes to a module, with the weights that it comes with."""

    factory: Factory

    def make(self, classes: int, size: int = 0) -> nn.Module:  # noqa: ARG002
        call = f"The teacher {self.name} cannot be made: called with {classes} (classes), it"
        try:
            module = self.factory(classes)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{call} raises {describe(error)} ({raised_at(error)}).") from error
        if not isinstance(module, nn.Module):
            raise UserError(f"{call} returns {type(module).__name__}; valid is a torch.nn.Module.")
        return module

    def outline(self, size: int = 0) -> nn.Module:
        return self.make(1000, size).eval().requires_grad_(False)  # it may read weights, which have numbers

    def trained(self, classes: int) -> nn.Module:
        return self.make(classes)

    def code(self, module: nn.Module) -> str:
        """A digest of the files that define the function and the classes of the module's parts, libraries' left out."""
        kinds = {type(part) for part in module.modules()}
        homes = {kind for kind in kinds if kind.__module__.partition(".")[0] not in LIBRARIES}
        paths = set()
        for home in (*homes, inspect.unwrap(self.factory)):
            with suppress(TypeError, OSError):  # typed in, or not of Python
                paths.add(inspect.getfile(home))
        digest = hashlib.sha256()
        for content in sorted(Path(path).read_bytes() for path in paths if Path(path).is_file()):
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def architecture(arch: str | Factory) -> Architecture:
    """Find what ``arch`` stands for: a torchvision model, ``timm:NAME``, ``package.module:function``, a function.

    Example:
        >>> architecture("convnext_tiny").size
        224
        >>> architecture("timm:resnet50").name
        'timm:resnet50'

    Raises:
        UserError: there is no such model, timm is not installed, or there is no such module or function.
    """
    if not isinstance(arch, str):
        return Yours(f"{arch.__module__}:{getattr(arch, '__qualname__', type(arch).__qualname__)}", arch)
    if arch.startswith(TIMM):
        return Timm(arch)
    return Yours(arch, _imported(arch)) if ":" in arch else Torchvision(arch)


def _imported(name: str) -> Factory:
    """The function that ``package.module:function`` names; modules of the current folder are found, too."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a command's own folder is that of the program
    try:
        found = importlib.import_module(module)
    except Exception as error:
        where = "" if isinstance(error, ModuleNotFoundError) else f" ({raised_at(error)})"
        raise UserError(f"Cannot import the teacher {name}: {describe(error)}{where}.") from error
    factory = getattr(found, attribute, None)
    if not callable(factory):
        functions = [key for key, value in vars(found).items() if inspect.isfunction(value) and key[0] != "_"]
        raise unknown(f"function of {module}", attribute, functions)
    made: Factory = factory
    return made


class _Outlines(TorchFunctionMode):
    """What modules allocate for their parameters has no numbers: torch's meta device takes no memory."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"  # not all tensors: some architectures compute their widths with these
        return func(*args, **kwargs)


@contextmanager
def _warnings_logged(library: str) -> Iterator[None]:
    """Log what a library warns of, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        log.info("%s: %s", library, " ".join(text.split()))


def sentence(error: BaseException) -> str:
    """What an error says, without a full stop."""
    return " ".join(str(error).split()).rstrip(".! ") or type(error).__name__


def _not_for(name: str, size: int, error: Exception) -> UserError:
    return UserError(f"{name} cannot be made for images of {size} pixels: {sentence(error)}.")
