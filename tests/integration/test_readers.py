"""Processes that read images: without shared memory, and stopped by a signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
from tests.support import ROOT
from tests.support.photos import draw_folder


def photos(root: Path) -> PhotoImages:
    return PhotoImages(*image_folder(draw_folder(root), "train"), 8, root)


READING = """
import sys, tempfile
from pathlib import Path
from kvbench.data.loader import batches
from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
images = PhotoImages(*image_folder(Path(sys.argv[1]), "train"), 224)
pixels = sum(x.numel() for _ in range(20) for x, _ in batches(images, 6, workers=1))
print(pixels, *Path(tempfile.gettempdir()).glob("kvbench-*"), *Path(tempfile.gettempdir()).glob("pymp-*"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")
def test_workers_hand_images_over_without_shared_memory(tmp_path: Path) -> None:
    space = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    small = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if not shutil.which("unshare") or subprocess.call([*space, "sh", "-c", small], stderr=subprocess.DEVNULL):
        pytest.skip("a /dev/shm of another size cannot be mounted here")
    draw_folder(tmp_path / "photos")
    (tmp_path / "temporary").mkdir()
    words = [*space, "sh", "-c", f'{small} && exec "$@"', "sh", sys.executable, "-c", READING, str(tmp_path / "photos")]
    told = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}, timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.stdout == f"{20 * 6 * 3 * 224 * 224}\n", told.stderr  # and nothing of ours is left


KILLED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from kvbench.data.layouts import image_folder
from kvbench.data.loader import batches
from kvbench.data.photos import PhotoImages
images = PhotoImages(*image_folder(Path(sys.argv[1]), "train"), 224)
for _ in batches(images, 2, workers=2):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_readers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """A batch is larger than a pipe holds: a reader would wait for ever for somebody to take it."""
    draw_folder(tmp_path / "photos", each=20)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "photos")]
    killed = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    readers = [Path("/proc", pid) for pid in killed.stdout.split()]
    assert len(readers) == 2
    deadline = time.monotonic() + 30
    while any(reader.exists() for reader in readers):
        assert time.monotonic() < deadline, "readers are left"
        time.sleep(0.1)


SLOW = """
import os, sys, time
import kvbench.data.photos as p
from kvbench.cli import main
sound = p.decode
def slow(*given):
    os.write(1, b".")
    time.sleep(.2)
    return sound(*given)
p.decode = slow
os.sched_getaffinity = lambda _: range(4)
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts processors as Linux does")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_slow_readers_at_once(number: int, code: int, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", each=300)
    (tmp_path / "temporary").mkdir()
    words = [sys.executable, "-c", SLOW, "extract", "--workload", "folder", "--root", str(root), "--device", "cpu"]
    state = torchvision.models.resnet18(num_classes=2).state_dict()
    torch.save(state, tmp_path / "teacher.pt")
    process = subprocess.Popen(
        [*words, "--checkpoint", str(tmp_path / "teacher.pt")], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(40)  # ten images of each worker
    start = time.monotonic()
    process.send_signal(number)
    told = process.communicate(timeout=120)[1].decode()
    assert process.returncode == code, told
    assert time.monotonic() - start < 10  # each of the four would be waited for, up to five seconds
    assert "Traceback" not in told
    assert list((tmp_path / "temporary").iterdir()) == []


EARLY = """
import os, signal, sys
from pathlib import Path
from kvbench.data.layouts import image_folder
from kvbench.data.loader import batches
from kvbench.data.photos import PhotoImages
def end(*_):
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
fork = os.fork
def forked():
    if (number := fork()) == 0:
        os.kill(os.getpid(), signal.SIGTERM)  # before multiprocessing takes care of what a worker raises
    return number
os.fork = forked
parent, images = os.getpid(), PhotoImages(*image_folder(Path(sys.argv[1]), "train"), 8)
try:
    list(batches(images, 2, workers=1))
except BaseException as error:
    kind = type(error).__name__
finally:
    os.write(1, f"{'parent' if os.getpid() == parent else 'worker'} {kind}\\n".encode())
"""


def test_a_worker_that_is_told_to_end_at_once_does_not_go_on_as_its_parent(tmp_path: Path) -> None:
    words = [sys.executable, "-c", EARLY, str(draw_folder(tmp_path / "photos"))]
    told = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, capture_output=True, text=True, check=False
    )
    assert told.stdout == "parent UserError\n", told.stderr
