"""Sides: what a run can be compared with, and is: a saved run, a reference, or a reference at a git revision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kvbench.findings.design import Design
from kvbench.reference import store, verdicts
from kvbench.reference.compare import differing
from kvbench.reference.store import HISTORIES, PROVENANCE, REPLICATES, VERDICTS, Reference
from kvbench.results import history, saved, storage
from kvbench.results.saved import Outcome
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import read_json
from kvbench.utils.git import files_at

# The folder of a study's references, and its design; of the study that is asked for where the name is empty.
References = Callable[[str], tuple[Path, Design]]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        name: what it was asked for by.
        source: where it was found.
        reference: its histories, as something to compare with; its verdicts are those of today's findings.
        outcome: how a saved run ended; None: this is a reference.
        reasons: why it did not pass, one sentence each.
        drifted: the metrics of each configuration of a run that left its reference, where it was compared with one.
    """

    name: str
    source: str
    reference: Reference
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    drifted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether it may be a baseline: a reference, or a run that passed or made one."""
        return self.outcome in {None, Outcome.PASSED, Outcome.RECORDED}

    @property
    def seeds(self) -> list[int]:
        """Those that it has."""
        return history.seeds(self.reference.histories)

    @property
    def study(self) -> str:
        """The name of its study; empty if it is not known."""
        facts = self.reference.provenance
        return str(facts.get("study") or self.reference.fingerprints.get("study") or "")

    def fact(self, name: str) -> str:
        """A fact about where it comes from, as text; empty if it is not known."""
        value = self.reference.provenance.get(name)
        return str(value) if isinstance(value, (str, int, float)) else ""

    @property
    def commit(self) -> str:
        """The commit that it was made at, abbreviated; empty if it is not known."""
        commit = self.fact("commit")
        return "" if commit == "unversioned" else commit[:8]

    @property
    def about(self) -> dict[str, str]:
        """What it is, in a few words."""
        known = {
            "outcome": str(self.outcome) if self.outcome else "a reference",
            "workload": self.reference.workload,
            "seeds": str(len(self.seeds)),
            "date": self.fact("date")[:10],
            "commit": self.commit,
        }
        return {name: value for name, value in known.items() if value}


def find(texts: Sequence[str], references: References, folder: Path = storage.STORAGE) -> list[Side]:
    """Find the sides that texts name, all of one study.

    Each is a file that pytest-benchmark saved, its number or name in ``folder``, a workload that has a reference, the
    folder of a reference, or either of these at a revision of git: ``expected/fractals@v1.2``. A workload's name means
    the reference of the study of a saved run beside it.

    Raises:
        UserError: there is no such thing, several fit, or it is damaged.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> [side] = find(["fractals"], lambda _: (Path("expected"), STUDY.design))
        >>> side.about["outcome"], side.good
        ('a reference', True)
    """
    runs = {text: (path, saved.read(path)) for text in texts if (path := _saved(text, references, folder))}
    study = next((run.study for _, run in runs.values() if run.study), "")
    return [
        of_saved(text, *runs[text], references) if text in runs else _reference(text, references, study, folder)
        for text in texts
    ]


def _saved(text: str, references: References, folder: Path) -> Path | None:
    """The saved file that a text means; None if it means none."""
    path = Path(text)
    if storage.is_file(path) or path.suffix == ".json":
        return path
    run = storage.find(text, folder)
    if run is not None and _place(text, *references("")) is not None:
        raise UserError(f"Both a reference and a saved run are called {text!r}: name {run} or the reference's folder.")
    return run


def of_saved(name: str, path: Path, run: saved.Saved, references: References) -> Side:
    """A saved run as a side.

    Where a reference was made from the same, its replicates tell what rounding does to this run, too.
    """
    folder, design = references(run.study)
    facts = {**run.info, store.COSTS: run.costs}
    made = Reference(run.workload, design, path, run.histories, verdicts.frame([]), facts, history.frame([]), "")
    with contextlib.suppress(UserError):
        recorded = store.load(folder, run.workload, design, strict=False)
        if made.fingerprints and recorded.fingerprints and not differing(recorded.fingerprints, made.fingerprints):
            kept = [name for name in history.configurations(run.histories)
                    if history.epochs(history.of(run.histories, name))
                    == history.epochs(history.of(recorded.histories, name))]  # fmt: skip
            replicates = recorded.replicates[recorded.replicates["configuration"].isin(kept)]
            made = replace(made, replicates=replicates, repeated=recorded.histories)
    return Side(name, str(path), _judged(made), run.outcome, run.reasons, run.drifted)


def _judged(reference: Reference) -> Reference:
    """The same with the verdicts of its design's findings on its histories."""
    return replace(reference, recorded=verdicts.frame(reference.judgements))


def _reference(text: str, references: References, study: str, folder: Path) -> Side:
    """A reference as a side; raises `UserError` where a text names neither one nor a saved run."""
    place = _place(text, *references(study))
    if place is not None:
        return _loaded(text, place, references, study)
    splits = [(text[:at], text[at + 1 :]) for at, char in enumerate(text) if char == "@" and at]
    if splits:  # a folder may have an @ in its name, and a revision, such as HEAD@{1}
        there = [split for split in splits if _place(split[0], *references(study)) is not None]
        return _at(text, *(there or splits)[0], references, study)
    known = [*store.available(*references(study)), *(path.name for path in storage.files(folder))]
    raise unknown("saved run or reference", text, known)


def _place(text: str, home: Path, design: Design) -> Path | None:
    """The folder of the reference that a text names; None if there is none."""
    path = Path(text)
    if storage.is_file(path / HISTORIES):
        return path.absolute()
    with contextlib.suppress(UserError):  # no name of a reference
        return store.find(home, text, design)
    return None


def _loaded(text: str, place: Path, references: References, study: str, source: str = "") -> Side:
    facts: Any = read_json(place / PROVENANCE)
    prints = facts.get("fingerprints") if isinstance(facts, dict) else None
    own = prints.get("study") if isinstance(prints, dict) else ""
    design = references(str(own or study))[1]
    return Side(text, source or str(place), _judged(store.load(place.parent, place.name, design, strict=False)))


def _at(text: str, name: str, revision: str, references: References, study: str) -> Side:
    """A reference as it was at a revision: its files are read from git into a folder for a moment."""
    place = Path(name) if "/" in name else references(study)[0] / name
    files = files_at(place, (HISTORIES, PROVENANCE, REPLICATES, VERDICTS), revision)
    if HISTORIES not in files:
        raise UserError(f"There is no reference in {place} at the revision {revision}.")
    with TemporaryDirectory() as temporary:
        copy = Path(temporary) / place.name
        copy.mkdir()
        for file, content in files.items():
            (copy / file).write_bytes(content)
        try:
            side = _loaded(text, copy, references, study, text)
        except UserError as error:
            raise UserError(str(error).replace(f"{copy}", f"{place}@{revision}")) from None
    return replace(side, reference=replace(side.reference, folder=place))
