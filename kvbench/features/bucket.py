"""Banks in a bucket or any other folder that fsspec reaches: a part is an object there, the cache has mapped copies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kvbench.features.folder import MANIFEST, Folder
from kvbench.utils.errors import UserError, describe

PAUSES = (0.5, 2.0)  # seconds before another try
FINAL = ("PermissionError", "NoCredentialsError", "PartialCredentialsError")  # errors that another try does not mend
PROBE = ".kvbench-probe"  # the name of an object that says whether any can be written
Reached = tuple[Any, str]  # a file system of fsspec's, and a path in it


def reach(url: str) -> Reached:
    """The file system of a URL and the path there.

    Raises:
        UserError: fsspec or what it needs for such a URL is not installed, or there is no such kind.
    """
    try:
        from fsspec.core import url_to_fs

        found: Reached = url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}))
    except ImportError as error:
        raise UserError(
            f"Cannot reach {url}: {describe(error)}. Install fsspec and what it needs for such a folder: for s3://, pip"
            " install 'kvbench[s3]'."
        ) from error
    except ValueError as error:
        raise UserError(f"Cannot reach {url}: {describe(error)}. Valid are URLs such as s3://NAME/FOLDER.") from error
    return found


@dataclass(frozen=True)
class Bucket(Folder):
    """A folder with a copy elsewhere: what is missing here is fetched, what is written goes there, too.

    An object appears whole, or what is fetched of it does not have its checksum and is computed and written again. So
    any number of machines may fill one bank. The manifest knows files of this machine and stays here.

    Args:
        path: here.
        url: there.
    """

    url: str = ""

    @cached_property
    def _there(self) -> Reached:
        return reach(self.url)

    @cached_property
    def _listed(self) -> set[str]:
        """The names of what is there at first; what comes later is found when it is missed here."""
        fs, path = self._there
        try:
            return {one.rpartition("/")[2] for one in self._try(fs.ls, path, detail=False)}
        except FileNotFoundError:
            return set()

    def stat(self, name: str) -> tuple[int, int]:
        if (self.path / name).exists():
            if name not in self._listed:  # it was computed before there was a bucket, or could not be written there
                self._put(name, (self.path / name).read_bytes())
        else:
            fs, path = self._there
            super().write(name, self._try(fs.cat_file, f"{path}/{name}"))
        return super().stat(name)

    def write(self, name: str, *pieces: bytes | memoryview) -> None:
        super().write(name, *pieces)
        if name != MANIFEST:
            self._put(name, b"".join(pieces))

    def need_writable(self) -> None:
        super().need_writable()
        self._put(PROBE, b"")
        fs, path = self._there
        self._try(fs.rm_file, f"{path}/{PROBE}")

    def clear(self) -> None:
        super().clear()
        fs, path = self._there
        with contextlib.suppress(FileNotFoundError):
            self._try(fs.rm, path, recursive=True)
        self._listed.clear()

    def _put(self, name: str, content: bytes) -> None:
        fs, path = self._there
        try:
            self._try(fs.pipe_file, f"{path}/{name}", content)
        except FileNotFoundError as error:
            raise UserError(f"Cannot write to {self.url}: {describe(error)}. Make the bucket first.") from error
        self._listed.add(name)

    def _try(self, act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function of the file system, again after a while where it fails; raises `UserError` in the end."""
        for pause in (*PAUSES, None):
            try:
                return act(*arguments, **options)
            except FileNotFoundError:  # noqa: PERF203 (requests take longer)
                raise
            except Exception as error:
                if pause is None or type(error).__name__ in FINAL:
                    raise UserError(
                        f"Cannot reach {self.url}: {describe(error)}. Are address and credentials right? What is"
                        " computed so far is kept in the cache, and the same command goes on."
                    ) from error
                time.sleep(pause)
        raise AssertionError
