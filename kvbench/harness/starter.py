"""A start for a project of one's own: the files that ``kvbench init`` writes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from kvbench.studies.registry import studies
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name
from kvbench.utils.text import shown

NAME = "my-study"  # of the study in the template
FILES = ("conftest.py", "test_ablation.py")  # of kvbench/templates


def start(folder: Path, study: str = NAME) -> list[Path]:
    """Write a suite with a small study into ``folder/benchmarks/``, and return its files.

    Raises:
        UserError: a file of the suite is there already, the folder cannot be written to, or the study's name is one of
            kvbench's or makes no name. Nothing is overwritten.

    Example:
        >>> start(Path("ablation"), "flowers")  # doctest: +SKIP
        [PosixPath('ablation/benchmarks/conftest.py'), PosixPath('ablation/benchmarks/test_ablation.py')]
    """
    check_name(study, "The name of a study")
    if study in studies():
        raise UserError(f"The study {study} is there already: give yours another name with --study.")
    home = folder / "benchmarks"
    for name in FILES:
        if (home / name).exists() or (home / name).is_symlink():
            raise UserError(
                f"{shown(home / name)} is there already, and nothing is overwritten: choose another folder, or register"
                " a study in the conftest.py that you have (pytest_kvbench_studies)."
            )
    texts = {name: (files("kvbench") / "templates" / name).read_text(encoding="utf-8") for name in FILES}
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (home / name).write_text(text.replace(f'"{NAME}"', f'"{study}"'), encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write to the folder {shown(home)}: {error.strerror or error}.") from error
    return [home / name for name in FILES]
