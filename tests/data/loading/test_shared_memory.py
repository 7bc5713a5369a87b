"""Batches that cannot be passed from worker processes are errors in the parent; torch's queue would drop them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys

import densevit
from densevit.config import DataSection
from densevit.data.transforms.transform_builder import build_transforms
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit_scenes.dataset import Scenes


def load():
    transform, _ = build_transforms(DataSection(name="scenes", image_size=320))
    prepared = TransformedDataset(Scenes("train", image_size=320, train_length=8), transform, train=True)
    loader = Loader(prepared, TrainBatches(8, 4, seed=0), 32, num_workers=1)
    return [batch["images"].shape for batch in loader]


if __name__ == "__main__":
    for call in sys.argv[1:]:
        try:
            print("result:", eval(call))
        except densevit.DensevitError as error:
            print("result:", error)
"""
MOUNT = "mount -t tmpfs -o size=1m tmpfs /dev/shm"


def results(folder: Path, *calls: str) -> list[str]:
    """Returns what the calls return, or the errors that they raise, with 1 MB of shared memory."""
    (folder / "calls.py").write_text(SCRIPT)
    command = ["sh", "-c", f'{MOUNT} && exec "$0" "$@"', sys.executable, "calls.py", *calls]
    command = ["unshare", "--user", "--map-root-user", "--mount", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return [line.removeprefix("result: ") for line in done.stdout.splitlines() if line.startswith("result: ")]


@pytest.fixture
def mounts():
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT]
    try:
        allowed = not subprocess.run(command, capture_output=True).returncode
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine does not allow to mount a file system")


@pytest.mark.integration
def test_a_full_shared_memory_is_one_line(tmp_path, mounts):
    """A batch has 1.2 MB of pixels and 0.4 MB of padding mask. In the end there is no space for a semaphore."""
    fill = "os.system('cat /dev/zero > /dev/shm/filling 2> /dev/null')"
    batch, _, semaphore = results(tmp_path, "load()", fill, "load()")
    start = "A data loader's process found no space in /dev/shm, through which batches are passed"
    end = "Fix: give a container more with --shm-size=8g, or reduce data.num_workers"
    assert re.match(rf"{start} \(unable to .*No space left on device.*\)\. {end}", batch)
    assert semaphore.startswith(f"{start} ([Errno 28] No space left on device). {end}")
