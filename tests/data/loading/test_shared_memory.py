"""Batches that cannot be passed from worker processes are errors in the parent; torch's queue would drop them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, resource, sys, threading
from pathlib import Path

import densevit
from densevit.config import DataSection
from densevit.data.transforms.transform_builder import build_transforms
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit_scenes.dataset import Scenes


class Unpicklable(Scenes):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample["targets"]["image_id"] = threading.Lock()
        return sample


class WithoutFiles(Scenes):
    def __getitem__(self, index):
        if index not in self.__dict__.setdefault("limited", [index]):
            return super().__getitem__(index)
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, unused))
        return super().__getitem__(index)


def load(kind=Scenes):
    transform, _ = build_transforms(DataSection(name="scenes", image_size=320))
    prepared = TransformedDataset(kind("train", image_size=320, train_length=8), transform, train=True)
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


def results(folder: Path, *calls: str, shell: str = "true") -> list[str]:
    """Returns what the calls return, or the errors that they raise. shell: a command that runs before them."""
    (folder / "calls.py").write_text(SCRIPT)
    command = ["sh", "-c", f'{shell} && exec "$0" "$@"', sys.executable, "calls.py", *calls]
    if shell != "true":
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
    batch, _, semaphore = results(tmp_path, "load()", fill, "load()", shell=MOUNT)
    start = "A data loader's process found no space in /dev/shm, through which batches are passed"
    end = "Fix: give a container more with --shm-size=8g, or reduce data.num_workers"
    assert re.match(rf"{start} \(unable to .*No space left on device.*\)\. {end}", batch)
    assert semaphore.startswith(f"{start} ([Errno 28] No space left on device). {end}")


@pytest.mark.integration
def test_values_that_cannot_be_passed_are_one_line(tmp_path):
    pickling, files = results(tmp_path, "load(Unpicklable)", "load(WithoutFiles)")
    assert pickling == (
        "A batch cannot be passed from a data loader's process: cannot pickle '_thread.lock' object. Fix: let "
        "data set and transforms return tensors, arrays, numbers and strings, or set "
        "data.num_workers=0."
    )
    assert re.match(r"A data loader's process has too many open files \(.*\)\. Fix: raise the limit with ulimit", files)
