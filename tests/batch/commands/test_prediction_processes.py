"""`densevit predict` by one process, by parts in any order, and by processes that were killed: the same files."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit.cli import main
from densevit_batch import folder_prediction
from densevit_batch.prediction_folder import parts_of
from tests.cli.stand_in import StandIn, dog_and_cat, read
from tests.data.coco_folder import noise
from tests.written_files import save_image

DETR = {"name": "detr", "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 1}, "num_queries": 3}
PREDICT = ["predict", "run", "photos", "--batch-size", "1", "--out"]
COUNT = 10


def boxes_and_panoptic(height: int, width: int) -> Any:
    below = (torch.arange(height) >= height // 2)[:, None]
    return {**dog_and_cat(height, width), "panoptic": (below * (1000 + torch.arange(width) // 30)).int()}


@pytest.fixture
def list_of_ten(cwd: Path) -> Path:
    """Ten photos in blocks of four, of which one cannot be read."""
    for n in range(COUNT):
        save_image(Path(f"photos/=cat {n}.png"), noise(n, 40 + 8 * (n % 2), 50))
    Path("photos/=cat 4.png").write_text("no image")
    return cwd


def killed(*command: str) -> None:
    """Runs a command in a process that is killed while it writes its second block."""
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        return
    write, written, lock = folder_prediction.write_block, list[Path](), threading.Lock()

    def write_or_die(file: Path, *given: Any) -> None:
        with lock:
            if written:
                file.with_suffix(".partial").write_bytes(b"a beginning")
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(file)
            write(file, *given)

    folder_prediction.write_block = write_or_die
    main([*command])
    os._exit(1)


def contents(folder: str) -> dict[str, bytes]:
    """The files of a folder, without the settings, and the blocks that are kept because an image failed."""
    files = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not re.search(r"predict\.json|-of-", name)}


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_parts_in_any_order_and_killed_processes_write_the_files_of_one_process(list_of_ten, load_as, run) -> None:
    Path("names.txt").write_text("".join(f"photos/=cat {n}.png\n" for n in reversed(range(COUNT))))
    load_as(StandIn(("a", "b"), boxes_and_panoptic))
    predict = ["predict", "run", "names.txt", "--batch-size", "1", "--draw", "3", "--out"]
    run(*predict, "one", code=1)
    for part in ("3/3", "1/3", "2/3"):
        assert main([*predict, "parts", "--part", part, "--resume"]) in (0, 1)  # as in an array
        assert not Path("parts/images.json").exists()
    run("predictions", "join", "parts")
    killed(*predict, "killed")
    assert len(list(Path("killed/parts/1-of-1").glob("*.gz"))) == 1 and not Path("killed/images.json").exists()
    run(*predict, "killed", code=2)  # without --resume
    run(*predict, "killed", "--resume", code=1)
    assert contents("parts") == contents("killed") == contents("one")
    assert len(read("one/images.json")) == len(read("one/a/panoptic.json")["annotations"]) == COUNT - 1


def interrupt(height: int, width: int) -> Any:
    raise KeyboardInterrupt


def test_a_part_that_was_begun_needs_resume(list_of_ten, load_as, run) -> None:
    first = [*PREDICT, "found", "--part", "1/2"]
    load_as(StandIn(("detection",), interrupt))
    assert "Stopped after 0 of 4 images. Continue with --out found --resume" in run(*first, code=130)
    load_as(StandIn(("detection",)))
    said = run(*first, code=2)
    assert said.startswith(f"found, part 1 of 2 was begun: process {os.getpid()} on ") and "add --resume" in said
    run(*first, "--resume")
    run(*PREDICT, "found", "--part", "2/2", code=1)
    assert [part.state(part.counts) for part in parts_of(Path("found"))] == ["complete"] * 2


@pytest.mark.parametrize(
    "names", [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")]
)
def test_processes_of_torchrun_and_srun_predict_their_parts(names, list_of_ten, model, environment, run) -> None:
    run(*PREDICT, "one", code=1)
    for rank in (1, 0):
        environment(**dict(zip(names, (rank, 2, rank), strict=True)))
        run(*PREDICT, "found")  # 1 would end the other process
    run("predictions", "join", "found")
    assert contents("found") == contents("one")


def test_status_is_one_line(list_of_ten, model, run) -> None:
    main([*PREDICT, "found", "--part", "2/3"])
    Path("found/parts/3-of-3").mkdir()
    Path("found/parts/3-of-3/process.txt").write_text("process 7 on there")
    assert run("predictions", "status", "found") == (
        "found: of 3 parts 1 complete, 1 begun, 1 not begun; 3 of 10 images are predicted, 1 could not be read"
    )


WRONG = [
    ([*PREDICT, "found", "--part", "0/3"], "'0/3' is not a part such as 3/16; parts are numbered from 1"),
    ([*PREDICT, "found", "--part", "1/3", "--devices", "2"], "leave out --devices or --part"),
    ([*PREDICT, "found", "--part", "1/3", "--video"], "leave out --video"),
    ([*PREDICT, "found", "--resume"], "parts is 1, was 3"),
    ([*PREDICT, "found", "--part", "1/3", "--threshold", "0.9"], "threshold is {'detection': 0.9}, was"),
    ([*PREDICT, "found", "--part", "1/3", "--batch-size", "2"], "batch_size is 2, was 1"),
    (["predict", "run", "a", *PREDICT[2:], "found", "--part", "1/3"], "list is '11 images, "),
    ([*PREDICT, "found", "--part", "2/3"], "was begun: complete. Fix: add --resume"),
    (["predictions", "join", "found"], "2 of 3 parts are not complete: part 1 (not begun), part 3 (not begun). Fix: "),
    (["predictions", "join", "photos"], "photos has no predict.json"),
    (
        ["data", "prelabel", "run", "found", "labels.json"],
        "its parts are not joined. Fix: densevit predictions join",
    ),
]


def test_wrong_parts_are_refused_and_change_nothing(list_of_ten, photos, model, run) -> None:
    run(*PREDICT, "found", "--part", "2/3", code=1)
    before = contents("found")
    for command, message in WRONG:
        assert message in run(*command, code=2) and contents("found") == before


@pytest.mark.integration
def test_devices_predict_a_list_on_stdin(list_of_ten, tmp_path: Path) -> None:
    model = densevit.create_model(
        {"name": "resnet", "depth": 18}, {"detection": DETR}, ["cat", "dog"], pretrained=False
    )
    densevit.save(model, tmp_path / "model.pt")

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        names = "".join(f"photos/=cat {n}.png\n" for n in range(10))
        command = [
            sys.executable,
            "-m",
            "densevit",
            "predict",
            str(tmp_path / "model.pt"),
            "-",
            "--batch-size",
            "1",
            *options,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, input=names, env=environment, capture_output=True, text=True, check=False)

    assert run("--out", "one").returncode == 1
    found = run("--devices", "2", "--out", "found", "--json")
    assert json.loads(found.stdout)["images"] == 9 and len(json.loads(found.stdout)["problems"]) == 1
    assert found.returncode == 1 and "=cat 4.png is not an image" in found.stderr
    assert contents("found") == contents("one")
