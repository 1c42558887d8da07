"""What a run in this folder would use and reuse: looked at, never changed, and said in sentences."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import kvbench
from kvbench.harness import cache
from kvbench.harness.options import OPTIONS, command
from kvbench.harness.projects import FOLDER, ask, collected, experiment, flags
from kvbench.utils.environment import PACKAGES, processors
from kvbench.utils.errors import UserError, describe
from kvbench.utils.text import size

if TYPE_CHECKING:
    from kvbench.harness.setup import Settings
    from kvbench.studies.experiment import Experiment

OPTIONAL = {"matplotlib": "kvbench[plot]", "timm": "kvbench[timm]", "pytest-xdist": "pytest-xdist"}  # and what has them


class Remark(NamedTuple):
    """A line of what the doctor says.

    Args:
        topic: what it is about.
        text: a sentence or facts.
        problem: something that a run would stumble over.
    """

    topic: str
    text: str
    problem: bool = False


class Doctor:
    """Looks at everything in turn; what one look finds, the next may use.

    Args:
        given: texts of options, by their names in `kvbench.harness.options.OPTIONS`; they go before an ini file's.

    Example:
        >>> [remark.topic for remark in Doctor({"cache": "no-such-folder"}).look()][:2]
        ['kvbench', 'packages']
    """

    def __init__(self, given: Mapping[str, str]):
        self.given = given
        self.texts: dict[str, str] = {}
        self.chosen: Experiment | None = None
        self.settings: Settings | None = None
        self.complete = False  # whether all is there that a run trains on
        self._take({})

    def _take(self, ini: Mapping[str, str]) -> None:
        self.texts = {row.name: self.given.get(row.name) or ini.get(row.name) or row.default for row in OPTIONS}
        self.values = {row.name: row.parse(self.texts[row.name]) for row in OPTIONS}

    def look(self) -> Iterator[Remark]:
        """All remarks, each look's as soon as they are there; whatever fails is one more."""
        looks: tuple[tuple[str, Callable[[], Iterator[Remark]]], ...] = (
            ("kvbench", self._versions),
            ("project", self._project),
            ("device", self._device),
            ("cache", self._cache),
            ("reference", self._reference),
            ("teacher", self._teacher),
            ("banks", self._banks),
            ("checkpoints", self._checkpoints),
        )
        for topic, one in looks:
            try:
                yield from one()
            except UserError as error:  # noqa: PERF203 (few)
                yield Remark(topic, str(error), problem=True)
            except Exception as error:  # whatever is damaged here: it is what the doctor is asked for
                yield Remark(topic, f"could not be looked at: {describe(error)}", problem=True)

    def _versions(self) -> Iterator[Remark]:
        where = Path(kvbench.__file__).parent
        yield Remark("kvbench", f"{version('kvbench')} in {where}, Python {platform.python_version()}")
        others = [f"{name} {version(name)}" for name in PACKAGES if name != "kvbench"]
        missing = []
        for name, comes_with in OPTIONAL.items():
            try:
                others.append(f"{name} {version(name)}")
            except PackageNotFoundError:  # noqa: PERF203 (few)
                missing.append(f"{name} is not installed (pip install '{comes_with}')")
        yield Remark("packages", ", ".join(others + missing))

    def _device(self) -> Iterator[Remark]:
        import torch

        from kvbench.harness.setup import resolve_device
        from kvbench.utils.environment import hardware

        here = hardware(resolve_device(self.values["device"]))
        why = " (OMP_NUM_THREADS)" if os.environ.get("OMP_NUM_THREADS") else ""
        mine = f"{processors()} of them for this process{why}"
        yield Remark("device", f"{here}, {mine}, {torch.get_num_threads()} threads")

    def _cache(self) -> Iterator[Remark]:
        folder = self.values["cache"]
        listing = cache.look(folder)
        for kind in cache.KINDS:
            found = listing.select(kinds=[kind])
            if found:
                yield Remark("cache", f"{kind}: {len(found)}, {size(sum(entry.size for entry in found))}")
        if not listing.entries:
            yield Remark("cache", f"nothing is kept in {folder}")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        yield Remark("cache", f"{size(shutil.disk_usage(there).free)} are free for {folder}")
        yield from (Remark("cache", problem, problem=True) for problem in listing.problems)

    def _project(self) -> Iterator[Remark]:
        here, below = Path("conftest.py"), Path(FOLDER, "conftest.py")
        conftests = [str(path) for path in (here, below) if path.is_file()]
        asked = ask()
        self._take(asked.options)
        if own := ", ".join(study.name for study in asked.studies or []):
            yield Remark("project", f"{', '.join(conftests) or 'a conftest.py above'} registers {own}")
        elif Path(FOLDER).is_dir():
            yield Remark("project", f"{FOLDER}/ with a study that comes with kvbench, as no conftest.py registers one")
        else:
            yield Remark("project", f"there is no folder {FOLDER}/ here: kvbench init writes one with a small study")
        if asked.options:
            set_there = ", ".join(f"{name} {text}" for name, text in asked.options.items())
            yield Remark("project", f"options of its ini file: {set_there}")
        self.chosen = experiment(self.values, asked.studies or [])
        study, count = self.chosen.study, len(self.chosen.configurations)
        yield Remark(
            "study", f"{study.name} on {self.chosen.name}: {count} configurations, {len(study.findings)} findings"
        )

    def _reference(self) -> Iterator[Remark]:
        from kvbench.reference.store import find, load
        from kvbench.results import history

        if self.chosen is None:
            return
        folder, design = self.values["expected"] / self.chosen.study.references, self.chosen.design
        if find(folder, self.chosen.name, design) is None:
            record = f"{command(self.texts)} --kvbench-seeds 8 --kvbench-update-expected"
            yield Remark(
                "reference", f"there is none in {folder}, so a run fails; to record it: {record}", problem=True
            )
            return
        reference = load(folder, self.chosen.name, design)
        seeds, names = history.seeds(reference.histories), history.configurations(reference.histories)
        date = reference.provenance.get("date", "an unknown date")
        yield Remark("reference", f"{reference.folder}: {len(names)} configurations, {len(seeds)} seeds, of {date}")
        for problem in reference.absent([row.id for row in self.chosen.configurations]):
            yield Remark("reference", problem, problem=True)

    def _teacher(self) -> Iterator[Remark]:
        from kvbench.features.architecture import architecture
        from kvbench.harness.setup import Settings

        if self.chosen is None:
            return
        if self.chosen.study.train is not None:
            yield Remark("teacher", "none: the study trains by a function of its own")
            self.complete = True
            return
        settings = Settings.of(self.values, self.chosen.images)
        kind = architecture(settings.arch or settings.workload.arch)
        if settings.checkpoint:
            yield Remark("teacher", f"{kind.name} with the weights of {settings.checkpoint}")
        elif settings.workload.teacher == "shipped" and not settings.arch:
            yield Remark("teacher", f"{kind.name}, which comes with kvbench for {settings.workload.name}")
        else:
            path = kind.file
            if path is None:
                yield Remark("teacher", f"{kind.name}: its weights come from elsewhere, and are not looked at here")
                return
            if not path.is_file():
                yield Remark("teacher", f"{kind.name}: a run downloads its weights to {path}")
                return
            yield Remark("teacher", f"{kind.name} with the weights of {path}, {size(path.stat().st_size)}")
        self.settings = settings

    def _banks(self) -> Iterator[Remark]:
        if self.settings is None:
            return
        if self.settings.unreadable == "skip":
            yield Remark("banks", "not looked at: with --kvbench-unreadable skip all image files are read first")
            return
        if self.settings.bucket:
            yield Remark("banks", f"not looked at: a run fetches them from {self.settings.bucket}")
            return
        stores, _ = self.settings.stores()
        self.complete = True
        for split, store in stores.items():
            parts = len(store.parts)
            missing = store.look(range(parts))
            self.complete &= not missing
            if damaged := [f"part {part} ({why})" for part, why in missing.items() if why]:
                text = f"{split}: {', '.join(damaged[:3])} of {store.path} damaged; a run computes it again"
                yield Remark("banks", text, problem=True)
            elif missing:
                have = f"{parts - len(missing)} of {parts} parts are there"
                yield Remark("banks", f"{split}: {have}; a run or kvbench extract computes the rest")
            else:
                yield Remark("banks", f"{split}: whole, {len(store.settings.images):,} images, {store.path}")

    def _checkpoints(self) -> Iterator[Remark]:
        from kvbench.harness.resume import DIRECTORY, directory_of
        from kvbench.harness.session import TRAININGS

        folder = self.values["cache"]
        if self.chosen is None or not any((folder / name).is_dir() for name in (DIRECTORY, TRAININGS)):
            yield Remark("checkpoints", "none: no run was interrupted, and no task left a result")
            return
        others = "others are of other code, seeds or settings"
        if not (self.complete and Path(FOLDER).is_dir()):
            yield Remark("checkpoints", f"not compared: that needs {FOLDER}/ and whole banks; {others}")
            return
        session = collected(flags(self.given))
        suite = directory_of(folder, session.title, session.suite_facts)
        begun = sum(any(one.glob("*.safetensors")) for one in suite.glob("*"))
        done = sum(bool(session.kept(row).paths) for row in session.rows)
        parts = [f"a run here goes on with {begun} trainings, in {suite}"] if begun else []
        parts += [f"of {done} configurations it takes what tasks trained"] if done else []
        yield Remark("checkpoints", f"{'; '.join(parts) or 'none for a run here'}; {others}")
