"""densevit/data/loading/worker_processes.py: the number of workers, and their failures as errors of one line."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from densevit.data.loading.worker_processes import worker_failure, workers_for

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
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNT = "mount -t tmpfs -o size=1m tmpfs /dev/shm"


def results(folder: Path, *calls: str) -> list[str]:
    """Returns what the calls return, or the errors that they raise, with 1 MB of shared memory."""
    (folder / "calls.py").write_text(SCRIPT)
    command = ["sh", "-c", f'{MOUNT} && exec "$0" "$@"', sys.executable, "calls.py", *calls]
    done = subprocess.run([*UNSHARE, *command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return [line.removeprefix("result: ") for line in done.stdout.splitlines() if line.startswith("result: ")]


@pytest.mark.integration
def test_a_full_shared_memory_is_one_line(tmp_path):
    """A batch has 1.2 MB of pixels and 0.4 MB of padding mask. In the end there is no space for a semaphore."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "sh", "-c", MOUNT], capture_output=True).returncode:
        pytest.skip("this machine does not allow to mount a file system")
    fill = "os.system('cat /dev/zero > /dev/shm/filling 2> /dev/null')"
    batch, _, semaphore = results(tmp_path, "load()", fill, "load()")
    start = "A data loader's process found no space in /dev/shm, through which batches are passed"
    end = "Fix: give a container more with --shm-size=8g, or reduce data.num_workers"
    assert re.match(rf"{start} \(unable to .*No space left on device.*\)\. {end}", batch)
    assert semaphore.startswith(f"{start} ([Errno 28] No space left on device). {end}")


IN_WORKER = """Caught RuntimeError in DataLoader worker process 0.
Original Traceback (most recent call last):
RuntimeError: {}
"""

KILLED = "DataLoader worker (pid 52) is killed by signal: "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (IN_WORKER.format("unable to write to file </torch_421_3091_0>: No space left on device (28)"), "--shm-size"),
        (IN_WORKER.format("unable to allocate shared memory(shm) for file </torch_7_1_0>: Success (0)"), "--shm-size"),
        (f"{KILLED}Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise "
         "your shared memory limit.", r"found no space in /dev/shm.*\(pid 52\).*Bus error.* --shm-size"),
        (f"{KILLED}Killed. ", r"was killed, as happens when memory runs out \(.*\(pid 52\)"),
        ("DataLoader worker (pid(s) 52, 53) exited unexpectedly", r"was killed, .*\(pid\(s\) 52, 53\)"),
        ("received 0 items of ancdata", "too many open files.*ulimit -n"),
    ],
)  # fmt: skip
def test_failure_of_the_loader_is_one_line_with_the_fix(text: str, expected: str):
    failure = worker_failure(RuntimeError(text))
    assert failure is not None and "\n" not in str(failure)
    with pytest.raises(type(failure), match=f"^(A|The) data loader's .*{expected}"):
        raise failure
    assert worker_failure(RuntimeError("shape mismatch: 3 and 4")) is None


def test_few_images_are_loaded_without_workers() -> None:
    assert (workers_for(3, 10), workers_for("auto", 10), workers_for("auto", 10**6, processes=999)) == (3, 0, 0)
