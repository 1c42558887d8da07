"""Files of a revision, read from git's objects: nothing is checked out, and no shell is asked."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from kvbench.utils.errors import UserError, describe
from kvbench.utils.files import LARGEST

SECONDS = 60  # that git may take
# Asks nobody, fetches nothing.
ENVIRONMENT = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0"}
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_PREFIX")  # set in hooks, and would lead to another repository
REVISION = re.compile(r"[A-Za-z0-9_.@{}~^/+=#][^\s:\\*?\[\x00-\x1f]*")  # what may name one, and can be no option


def files_at(folder: Path, names: Iterable[str], revision: str) -> dict[str, bytes]:
    """The contents of those files of a folder that it had at a revision.

    Args:
        folder: where it is, or was, in the working tree.
        names: of files in it.
        revision: a commit, tag or branch.

    Raises:
        UserError: there is no git, no repository or no such revision, or a file is too large.

    Example:
        >>> files_at(Path("expected/fractals"), ["provenance.json"], "v1.2").keys()  # doctest: +SKIP
        dict_keys(['provenance.json'])
    """
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not REVISION.fullmatch(revision):
        raise UserError(f"{revision!r} is no revision of git; valid is a commit, a tag or a branch.")
    code, _, message = _git(there, "rev-parse", "--git-dir")
    if code:
        raise UserError(f"{there} is in no git repository, so there is no revision {revision} of it: {message}.")
    code, commit, _ = _git(there, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if code:
        raise UserError(f"There is no revision {revision} in the git repository of {there}.")
    found = {}
    for name in names:
        place = f"{commit.decode().strip()}:./{(folder / name).relative_to(there).as_posix()}"
        code, size, _ = _git(there, "cat-file", "-s", place)
        if code:
            continue
        if int(size) > LARGEST:
            raise UserError(f"{folder / name} at {revision} is too large: at most {LARGEST // 2**20} MiB are read.")
        code, found[name], message = _git(there, "show", "--no-textconv", place)
        if code:
            raise UserError(f"git cannot show {folder / name} at {revision}: {message}.")
    return found


def _git(folder: Path, *arguments: str) -> tuple[int, bytes, str]:
    """Exit status and output of git, and the first line of what it says of an error."""
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, none of them an option of a user's
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the git on the path is the user's
            capture_output=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in ELSEWHERE} | ENVIRONMENT,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError("Reading a revision needs git, which is not installed.") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"git cannot be asked: {describe(error)}.") from None
    message = done.stderr.decode(errors="replace").strip().partition("\n")[0]
    return done.returncode, done.stdout, message.removeprefix("fatal: ").rstrip(".")
