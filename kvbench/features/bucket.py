"""A bank's parts in a bucket, or in any other folder that fsspec reaches: whole objects, of which the cache has copies.

An object appears whole, or what is fetched does not have its checksum, is computed, and put again. So any number of
machines may fill one bank. Requests that fail are repeated by the service's own client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kvbench.utils.errors import UserError, describe
from kvbench.utils.files import write_bytes

PROBE = ".kvbench-probe"  # the name of an object that says whether any can be written
ADVICE = {
    ImportError: "Install fsspec and what it needs for such a folder: for s3://, pip install 'kvbench[s3]'.",
    ValueError: "Valid are URLs such as s3://NAME/FOLDER.",
    Exception: "Are address and credentials right? The same command goes on with what the cache has.",
}


@dataclass(frozen=True)
class Bucket:
    """A folder at a URL. Each method raises `UserError` where it cannot be reached."""

    url: str

    @cached_property
    def listed(self) -> set[str]:
        """The names of what was there at first, and of what was put."""
        with self._reached() as (fs, path), suppress(FileNotFoundError):
            return {one.rpartition("/")[2] for one in fs.ls(path, detail=False)}
        return set()

    def fetch(self, file: Path) -> None:
        """Copy an object to a file of its name; raises `FileNotFoundError` where there is none."""
        with self._reached() as (fs, path):
            content = fs.cat_file(f"{path}/{file.name}")
        write_bytes(file, content)

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        with self._reached() as (fs, path):
            try:
                fs.pipe_file(f"{path}/{name}", content)
            except FileNotFoundError as error:
                raise UserError(f"Cannot write to {self.url}: {describe(error)}. Make the bucket first.") from error
        self.listed.add(name)

    def need_writable(self) -> None:
        """Raise `UserError` where nothing can be written."""
        self.put(PROBE, b"")
        with self._reached() as (fs, path):
            fs.rm_file(f"{path}/{PROBE}")

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """A block with the file system, as fsspec has it, and the path there."""
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.url, **({"auto_mkdir": True} if self.url.startswith("file:") else {}))
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:
            advice = next(text for kind, text in ADVICE.items() if isinstance(error, kind))
            raise UserError(f"Cannot reach {self.url}: {describe(error)}. {advice}") from error
