"""What a session works on, as chosen by options: workload, device, cache and the rest; and opening its banks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kvbench.core.bank import FeatureBank
from kvbench.core.custom import CustomTraining
from kvbench.core.numerics import accelerator, default_numerics
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.data import validate
from kvbench.data.base import SPLITS, Images
from kvbench.data.contract import check_splits, warn_missing_classes
from kvbench.features import teacher
from kvbench.features.architecture import architecture
from kvbench.features.fill import fill, open_bank
from kvbench.features.spec import BankSettings
from kvbench.features.store import Store
from kvbench.studies.study import Study
from kvbench.utils.environment import built_with
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import UserError, shorten, unknown
from kvbench.utils.oom import OTHER_PLACE, enough_memory
from kvbench.utils.progress import OnProgress, ignore
from kvbench.utils.shares import Share
from kvbench.utils.text import shown
from kvbench.workloads import Workload

ABOVE_CHANCE = 0.05  # of what lies between chance and perfection: a teacher that is right less often is suspicious
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
logger = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto`` or a device's name (``cuda``, ``cuda:1``) into a device that can be used here.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')

    Raises:
        UserError: the name is not known, or this machine or this build of torch has no such device.
    """
    here = accelerator()
    if name == "auto":
        return here or torch.device("cpu")
    kind, _, index = name.partition(":")
    if (
        kind not in DEVICES[1:]
        or (index and not (index.isascii() and index.isdigit()))
        or name.endswith(":")
        or len(index) > 4
    ):
        raise unknown("device", name, [*DEVICES, "cuda:0"])
    count = 1 if kind == "cpu" else torch.accelerator.device_count() if here and here.type == kind else 0
    if int(index or 0) >= count:
        raise UserError(
            f"No usable device {name!r}: torch {torch.__version__} finds {count} {kind} devices on this machine."
            " Choose --kvbench-device cpu, or install a driver and a build of torch that fit the hardware."
        )
    return torch.device(name)


def stacks_seeds(strategy: str, device: torch.device) -> bool:
    """Whether seeds are trained as one model: where that is chosen, and by ``auto`` on an accelerator.

    Example:
        >>> stacks_seeds("auto", torch.device("cpu")), stacks_seeds("auto", torch.device("cuda"))
        (False, True)
    """
    return strategy == "stacked" or (strategy == "auto" and device.type != "cpu")


@dataclass(frozen=True)
class Banks:
    """The banks of both splits on the device, and what they were computed from."""

    train: FeatureBank
    val: FeatureBank
    fingerprints: dict[str, Any]
    notes: tuple[str, ...] = ()  # what a reader of the tables should know of the data

    @cached_property
    def perturbed(self) -> tuple[FeatureBank, FeatureBank]:
        """Both splits as another platform might have left them."""
        return self.train.perturbed(seed=1), self.val.perturbed(seed=2)


def begin(
    study: Study,
    configuration: Configuration,
    banks: Banks | None,
    seeds: Sequence[int],
    device: torch.device,
    replicated: Sequence[int] = (),
    *,
    stacked: bool = False,
) -> Training:
    """A configuration's training, not begun: on banks, or by the study's own function where there are none.

    ``replicated`` seeds are trained a second time on banks as another platform might have left them. ``stacked``: as
    one model, where that is possible.
    """
    if banks is None:
        assert study.train is not None, "a study without banks trains by itself"
        return CustomTraining(configuration, study.train, seeds, device)
    replicates = [Run(configuration, *banks.perturbed, seed) for seed in replicated]
    return Training(configuration, banks.train, banks.val, seeds, replicates, stacked=stacked)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the banks of a session.

    ``arch`` and ``checkpoint`` replace the workload's own teacher, ``taps`` its taps. ``unreadable`` is what becomes of
    files that cannot be read: `kvbench.harness.options.UNREADABLE`; ``mixed`` of banks whose parts come from unlike
    machines: `kvbench.harness.options.MIXED`. ``bucket`` is the URL of a folder that banks are shared by. ``fresh``
    throws away what an interrupted teacher pass left, instead of going on with it; ``verify`` reads banks whole before
    they are used.
    """

    workload: Workload
    device: torch.device
    cache: Path
    root: Path | None = None
    pooling: str = "global"
    taps: tuple[str, ...] = ()
    arch: str = ""
    checkpoint: Path | None = None
    unreadable: str = "stop"
    precision: str = "float32"
    mixed: str = "tell"
    bucket: str = ""
    fresh: bool = False
    verify: bool = False

    @classmethod
    def of(
        cls, values: Mapping[str, Any], workload: Workload, *, fresh: bool = False, verify: bool = False
    ) -> Settings:
        """Take the values of options, by their names in `kvbench.harness.options.OPTIONS`, for a workload.

        Raises:
            UserError: there is no such device.
        """
        size = workload.size if any(choice.startswith("size=") for choice in values["set"].split()) else None
        return cls(
            prepared(workload, values["teacher"], values["checkpoint"], size),
            resolve_device(values["device"]),
            values["cache"],
            values["root"],
            values["pooling"],
            values["taps"],
            values["teacher"],
            values["checkpoint"],
            values["unreadable"],
            values["precision"],
            values["mixed"],
            values["bucket"],
            fresh,
            verify,
        )

    def images(self, train_count: int | None, on_progress: OnProgress = ignore) -> tuple[dict[str, Images], list[str]]:
        """Open both splits, with ``train_count`` images to train on (None: all).

        Returns them by the name of the split, and a note for each that files are left out of.
        """
        if self.root and not self.workload.layout:
            logger.warning(
                "The workload %s generates its images: %s is not read. For your own images: --kvbench-workload folder.",
                self.workload.name,
                shown(self.root),
            )
        counts = {"train": train_count, "val": self.workload.val_count}
        images = {split: self.workload.images(split, self.root, counts[split]) for split in SPLITS}
        check_splits(images["train"], images["val"], self.root)
        notes = []
        if self.unreadable == "skip":
            for split, part in images.items():
                images[split], note = validate.readable(part, split, self.cache, self.workload.name, on_progress)
                notes.append(note)
        return images, notes

    def teacher(self, classes: tuple[str, ...]) -> teacher.Teacher:
        """Load the teacher; ``classes`` are the data's, which a checkpoint is taken to have been trained on."""
        arch = self.arch or self.workload.arch
        if self.checkpoint:
            return teacher.from_checkpoint(self.checkpoint, arch, classes, self.workload.size)
        if self.workload.teacher == "shipped" and not self.arch:
            return teacher.shipped(self.workload.name)
        return teacher.pretrained(arch, classes)

    def stores(self, on_progress: OnProgress = ignore) -> tuple[dict[str, Store], list[str]]:
        """Where the banks of both splits lie, by the name of the split, and notes on the images."""
        images, notes = self.images(self.workload.train_count, on_progress)
        chosen = self.teacher(images["train"].classes)
        arch = self.arch or self.workload.arch
        named = self.taps or (self.workload.taps if arch == self.workload.arch else ())
        taps = named or teacher.default_taps(arch, chosen, images["train"])
        stores = {}
        for split, part in images.items():
            settings = BankSettings(part, chosen, taps, self.pooling, self.precision)
            name = f"{self.workload.name}-{split}"
            stores[split] = Store(settings, self.cache, name, self.bucket, self.verify)
        return stores, notes

    @default_numerics()
    def open_banks(self, on_progress: OnProgress = ignore, share: Share | None = None) -> Banks:
        """Open the banks of both splits, computing what is missing from the cache: a ``share`` of it first.

        Processes that open them at once, with a share each, compute most parts once.
        """
        stores, notes = self.stores(on_progress)
        if share is not None and not self.fresh:
            fill_banks([stores], share, self.device, on_progress)
        settings = {split: store.settings for split, store in stores.items()}
        images = {split: one.images for split, one in settings.items()}
        chosen = settings["train"].teacher
        banks = {}
        here = built_with(self.device)
        for split, store in stores.items():
            with enough_memory(f"the {split} features on {self.device}", OTHER_PLACE):
                opened = open_bank(store, self.device, on_progress, fresh=self.fresh)
                banks[split] = opened.to(self.device)
            warn_missing_classes(opened.labels, images[split].classes, split)
            elsewhere = dict.fromkeys(what for made in opened.built_with for what in differences(made, here))
            mixed = len(opened.built_with) > 1
            if mixed and self.mixed == "refuse":
                raise UserError(
                    f"The {split} features were computed in part elsewhere ({', '.join(elsewhere)}): remove"
                    f" {store.path} to compute them here, or take them with --kvbench-mixed tell."
                )
            if elsewhere:
                notes.append(
                    f"{'Some of the' if mixed else 'The'} {split} features were computed elsewhere; what could change"
                    f" them: {', '.join(elsewhere)}"
                )
                logger.warning("%s.", notes[-1])
        if outputs := settings["val"].outputs:
            every = len(chosen.classes or ())
            notes.append(f"{len(outputs):,} of the teacher's {every:,} outputs are used, chosen by the classes' names")
            logger.info("%s.", notes[-1])
        if note := at_chance(chosen.name, banks["val"], images["val"].classes):
            notes.append(note)
            logger.warning("%s.", note)
        notes.append(
            validate.in_both(images["train"], images["val"], self.cache, self.workload.name)
            or same_rows(banks["train"], banks["val"])
        )
        return Banks(banks["train"], banks["val"], fingerprints(settings), tuple(filter(None, notes)))


def fill_banks(
    every: Sequence[Mapping[str, Store]], share: Share, device: torch.device, on_progress: OnProgress = ignore
) -> dict[str, int]:
    """Compute a share of the parts of both splits' banks, where they are missing; returns how many each are in it.

    Banks of several teachers are filled by one pass over the same images.

    Raises:
        UserError: the pass fails, or a part cannot be read or written.
    """
    first = every[0]
    mine = share.of([(split, part) for split, store in first.items() for part in range(len(store.parts))])
    for split in first:
        with enough_memory(f"the {split} features on {device}", OTHER_PLACE):
            fill([stores[split] for stores in every], [part for one, part in mine if one == split], device, on_progress)
    return Counter(split for split, _ in mine)


def prepared(row: Workload, arch: str, checkpoint: Path | None, size: int | None) -> Workload:
    """A workload whose photographs are as pretrained weights need them: those of ``arch``, or of its own teacher.

    Without a ``size`` they are as large as those of ``arch``. Checkpoints were trained on the workload as it is.
    """
    if not row.layout:
        return replace(row, size=size or row.size)
    other = "" if checkpoint or arch == row.arch else arch
    kind = architecture(other or row.arch)
    side = size or (kind.size if other else None) or row.size
    return replace(row, size=side, transform=row.transform or kind.transform(side))


def same_rows(train: FeatureBank, val: FeatureBank) -> str:
    """Say that the first images of both splits are the same ones, and log it; empty where they are not."""
    rows = min(len(train), len(val))
    pairs = ((train.labels, val.labels), (train.logits, val.logits))
    if not all(torch.equal(a[:some], b[:some]) for some in (min(rows, 1024), rows) for a, b in pairs):
        return ""
    note = f"The first {rows:,} images of train and val are the same: does the workload's opener use the split?"
    logger.warning("%s", note)
    return note


def at_chance(name: str, bank: FeatureBank, classes: tuple[str, ...]) -> str:
    """Say that a teacher is hardly better than chance on a bank, and the order of its outputs; empty where it is not.

    Its accuracy is compared with guessing among K classes: by a binomial test at 1%, and by `ABOVE_CHANCE`.
    """
    from scipy.stats import binomtest

    chance, accuracy = 1 / bank.classes, bank.teacher_accuracy
    correct = round(accuracy * len(bank))
    doubtful = binomtest(correct, len(bank), chance, alternative="greater").pvalue > 0.01
    if not doubtful and accuracy >= chance + ABOVE_CHANCE * (1 - chance):
        return ""
    return (
        f"The teacher {name} is right on {accuracy:.1%} of the validation images, which is hardly better than chance,"
        f" {chance:.1%}: do its outputs have another order? They are taken to be {shorten(classes)}"
    )


def fingerprints(settings: dict[str, BankSettings]) -> dict[str, Any]:
    """What must agree for two runs to be comparable: short texts, for provenance files."""
    train = settings["train"].fingerprint
    data = {split: json.dumps(one.fingerprint["data"], sort_keys=True).encode() for split, one in settings.items()}
    return {
        **{f"{split} images": hashlib.sha256(text).hexdigest()[:16] for split, text in data.items()},
        "teacher": f"{train['teacher']['name']} {train['teacher']['sha256'][:16]}",
        "taps": " ".join(train["taps"]),
        "pooling": train["pooling"],
        "precision": train["precision"],
    }
