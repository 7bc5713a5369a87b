"""`densevit predict` by several processes: parts of a list, their owners, and the joined files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.cli import main, prediction_parts
from densevit.cli.prediction_job import Process, _device
from densevit.cli.prediction_parts import Part
from densevit.data.io.prediction_tables import IMAGES, OBJECTS, read_table
from densevit.errors import DensevitError
from tests.cli.stand_in import StandIn, read

PREDICT = ["predict", "run", "photos", "--batch-size", "1", "--out"]
DETR = {"name": "detr", "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 1}, "num_queries": 3}


@pytest.fixture
def list_of_ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photos in blocks of two, of which one cannot be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.cli.prediction_run.BATCHES_AT_ONCE", 2)
    Path("photos").mkdir()
    for n in range(10):
        Image.fromarray(np.full((40 + n, 50, 3), 128, np.uint8)).save(f"photos/=cat {n}.png")
    Path("photos/=cat 4.png").write_text("no image")
    return tmp_path


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def states(folder: str) -> list[str]:
    return [Part(Path(folder), n, 3).state().name for n in (1, 2, 3)]


@pytest.mark.parametrize("heads", [("detection",), ("cats", "parts")])
@pytest.mark.parametrize("draw", ["all", "none"])
def test_joined_parts_are_the_files_of_one_process(heads, draw, list_of_ten, monkeypatch, capsys):
    monkeypatch.setattr("densevit.inference.loading.load", lambda *given: StandIn(heads))
    assert main([*PREDICT, "one", "--draw", draw]) == 1
    for part, failures in (("3/3", 0), ("1/3", 0), ("2/3", 1)):
        assert main([*PREDICT, "found", "--draw", draw, "--part", part, "--resume"]) == failures  # as in an array
        assert not (Path("found") / "images.json").exists()
    assert main(["predictions", "join", "found"]) == 0
    assert contents("found") == contents("one")
    assert main([*PREDICT, "found", "--draw", draw, "--resume"]) == 1  # one image fails again; the others are kept
    assert contents("found") == contents("one")
    assert [image["file_name"] for image in read("found/images.json")] == [
        f"photos/=cat {n}.png" for n in range(10) if n != 4
    ]


def test_joined_tables_have_the_rows_of_one_process(list_of_ten, model, monkeypatch):
    pytest.importorskip("pyarrow")
    Path("photos/7.png").write_bytes(Path("photos/=cat 0.png").read_bytes())  # in parts, ids are of one type too
    command = [*PREDICT, "one", "--format", "parquet"]
    assert main(command) == 1
    command[command.index("one")] = "found"
    for part in ("1/3", "2/3", "3/3"):
        main([*command, "--part", part])
    assert main(["predictions", "join", "found"]) == 0
    for table in (IMAGES, OBJECTS):
        rows = [read_table(Path(folder, table)).to_pylist() for folder in ("one", "found")]
        assert len(rows[0]) == len(rows[1]) > 10 - (table == IMAGES)
        assert sorted(rows[0], key=str) == sorted(rows[1], key=str)
    assert main([*command, "--resume"]) == 1  # continues in the joined folder: one image fails again


def test_a_part_that_is_resumed_after_the_join_is_one_line(list_of_ten, model, capsys):
    for part in ("1/2", "2/2"):
        main([*PREDICT, "found", "--part", part])
    assert main(["predictions", "join", "found"]) == 0
    capsys.readouterr()
    for options in (["--part", "1/2"], ["--part", "1/2", "--resume"], ["--devices", "2", "--resume"]):
        assert main([*PREDICT, "found", *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("found has no parts: ") and error.count("\n") == 1 and "without --part" in error
    assert main([*PREDICT, "found", "--resume"]) == 1, "the fix: one image fails again"


KILLED = """
import os, signal, sys
from densevit.cli import main, prediction_run
from densevit.inference import loading
from tests.cli.stand_in import StandIn

class Killed(StandIn):
    def predict(self, images, *given, **options):
        if len(self.batches) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(images, *given, **options)

prediction_run.BATCHES_AT_ONCE = 2
loading.load = lambda *given: Killed(("detection",))
main(sys.argv[1:])
"""


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_parts_of_killed_processes_are_continued_by_any_number_of_processes(list_of_ten, model, monkeypatch, capsys):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    for part in ("1/2", "2/2"):
        killed = [sys.executable, "-c", KILLED, *PREDICT, "found", "--part", part]
        assert subprocess.run(killed, env=environment, check=False).returncode == -signal.SIGKILL
    assert main([*PREDICT, "found", "--part", "1/2"]) == 2
    assert "part 1 of 2 in found: process" in (text := capsys.readouterr().err) and "add --resume" in text
    for rank in (0, 1, 2):  # the first takes all, the others find nothing left
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        assert main([*PREDICT, "found", "--resume"]) == 0
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert main([*PREDICT, "found", "--resume"]) == 1  # joins
    assert main([*PREDICT, "one"]) == 1
    assert contents("found") == contents("one")


def test_a_late_process_of_torchrun_predicts_its_own_part(list_of_ten, model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in ((1, ["not begun", "complete"]), (0, ["complete", "complete"])):
        monkeypatch.setenv("RANK", str(rank))
        assert main([*PREDICT, "found"]) == 0  # 1 would end the other process
        assert [Part(Path("found"), n, 2).state().name for n in (1, 2)] == expected


def test_batches_of_a_block_do_not_depend_on_what_is_left(list_of_ten, model, monkeypatch):
    monkeypatch.setattr("densevit.cli.prediction_run.BATCHES_AT_ONCE", 4)
    seen: list[list[int]] = []
    predict = model.predict
    monkeypatch.setattr(
        model, "predict", lambda images, *given, **options: seen.append([len(i) for i in images]) or predict(images)
    )
    assert main([*PREDICT, "found"]) == 1
    whole = [*seen]
    images = Path("found/images.json")
    images.write_text("".join(images.read_text().splitlines(keepends=True)[:3]))  # as after kill -9
    seen.clear()
    assert main([*PREDICT, "found", "--resume"]) == 1
    assert seen == whole == [[40, 41, 42, 43], [45, 46, 47], [48, 49]]
    seen.clear()
    assert main([*PREDICT, "found", "--resume"]) == 1
    assert seen == [], "nothing is predicted for an image that cannot be read again"


def test_a_part_has_one_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_parts, "BEAT", 0.05)
    part = Part(tmp_path, 1, 1)
    new = part.state()
    owner = part.take(new)
    assert owner is not None and part.take(new) is None
    assert (part.state().name, part.state().owners) == ("running", 1)
    file = part.owner_file(1)
    (elsewhere := json.loads(file.read_text()))["process"] = ["another-host", "", 1]
    monkeypatch.setattr(owner, "_publish", lambda state: file.write_text(json.dumps(elsewhere)))  # gives signs
    time.sleep(0.2)
    assert part.state().name == "running", "a process on another machine with a sign of this minute"
    owner._ended.set()
    owner._beats.join()
    os.utime(file, (time.time() - 61,) * 2)
    assert part.state().name == "stopped"
    monkeypatch.undo()
    monkeypatch.setattr(prediction_parts, "BEAT", 0.05)
    second = part.take(part.state())
    assert second is not None and second.images == 0
    third = part.take(part.state())
    assert third is not None, "taken over, as after a halt of the second one"
    deadline = time.monotonic() + 30
    with pytest.raises(DensevitError, match="part 1 of 1: another process has taken it over"):
        while time.monotonic() < deadline:
            second.check()
            time.sleep(0.01)
    third.complete = True
    for one in (second, third):
        one.close()
    assert part.state().name == "complete"
    part.owner_file(4).touch()  # created a moment ago
    assert part.state().name == "running"


def test_an_owner_whose_process_does_not_exist_has_ended(tmp_path):
    part = Part(tmp_path, 1, 1)
    owner = part.take(part.state())
    assert owner is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    saved = json.loads(part.owner_file(1).read_text())
    for space, name in ((saved["process"][1], "stopped"), ("another container", "running")):
        saved["process"][1:] = [space, ended.pid]
        part.owner_file(1).write_text(json.dumps(saved))
        assert part.state().name == name
    owner.close()


def test_status_is_one_line(list_of_ten, model, capsys):
    main([*PREDICT, "found", "--part", "2/3"])
    capsys.readouterr()
    assert main(["predictions", "status", "found"]) == 0
    assert capsys.readouterr().out == (
        "found: of 3 parts 2 not begun (1, 3), 1 complete; 3 of 10 images are predicted, 1 could not be read\n"
    )
    assert main(["predictions", "status", "found", "--json"]) == 0
    assert [part["images"] for part in json.loads(capsys.readouterr().out)["parts"]] == [0, 3, 0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([*PREDICT, "found", "--part", "0/3"], "'0/3' is not a part such as 3/16; parts are numbered from 1"),
        ([*PREDICT, "found", "--part", "3"], "'3' is not a part such as 3/16"),
        ([*PREDICT[:-1], "--part", "1/3"], "name it with --out DIR"),
        ([*PREDICT, "found", "--part", "1/3", "--devices", "2"], "leave --devices or --part out"),
        ([*PREDICT, "found", "--part", "1/3", "--video"], "leave --video out"),
        ([*PREDICT, "found", "--devices", "2", "--video"], "leave --video out"),
        ([*PREDICT, "found", "--devices", "0"], "--devices is 0"),
        ([*PREDICT, "found", "--part", "1/4"], "parts is 4, was 3"),
        ([*PREDICT, "found", "--part", "1/3", "--threshold", "0.9"], "threshold is {'detection': 0.9}, was"),
        ([*PREDICT, "found", "--part", "1/3", "--batch-size", "2"], "batch_size is 2, was 1"),
        (["predict", "run", "a", *PREDICT[2:], "found", "--part", "1/3"], "list is '11 images, "),
        ([*PREDICT, "found", "--part", "2/3"], "has begun it (complete). Fix: add --resume"),
        ([*PREDICT, "found"], "found is not empty"),
        ([*PREDICT, "photos", "--part", "1/3"], "photos is not empty"),
        (["predictions", "join", "found"], "part 1 of 3 (not begun), part 3 of 3 (not begun) of 3 not complete"),
        (["predictions", "join", "photos"], "photos has no predict.json"),
        (["predictions", "status", "photos"], "photos has no predict.json"),
    ],
)
def test_wrong_parts_are_refused_in_one_line(command, message, list_of_ten, photos, model, capsys):
    main([*PREDICT, "found", "--part", "2/3"])
    before = contents("found")
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and (len(error.splitlines()) == 1 or "usage:" in error)
    assert contents("found") == before


def test_each_process_has_a_gpu(monkeypatch):
    monkeypatch.setattr("densevit.inference.loading.device_of", torch.device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    ranks = [Process(rank, 4, rank % 2) for rank in range(4)]  # on two machines
    assert [_device("cuda", 1, rank) for rank in ranks] == [torch.device("cuda", n) for n in (0, 1, 0, 1)]
    for name, devices, expected in (("cuda:1", 1, "cuda:1"), ("cuda", 1, "cuda"), ("cpu", 9, "cpu")):
        assert _device(name, devices, Process()) == torch.device(expected)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(DensevitError, match=f"--devices is 3, but --device {name} is"):
            _device(name, 3, Process())


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    backbone = {"name": "resnet", "depth": 18}
    densevit.save(densevit.create_model(backbone, {"detection": DETR}, ["cat", "dog"], pretrained=False), path)
    return path


@pytest.mark.integration
def test_devices_predict_a_list_on_stdin(list_of_ten, saved_model, project):
    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        names = "".join(f"photos/=cat {n}.png\n" for n in range(10))
        command = [sys.executable, "-m", "densevit", "predict", str(saved_model), "-", "--batch-size", "1", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, input=names, env=environment, capture_output=True, text=True, check=False)

    assert run("--out", "one").returncode == 1
    found = run("--devices", "2", "--out", "found", "--json")
    assert json.loads(found.stdout) == {"out": "found", "images": 9, "failed": 1}
    assert (found.returncode, found.stderr.count("=cat 4.png is not an image")) == (1, 1)
    assert contents("found") == contents("one")
    refused = run("--devices", "2", "--out", "found")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM")
def test_a_signal_ends_all_devices_which_are_continued(list_of_ten, saved_model, model, capsys):
    for n in range(10, 400):
        os.link("photos/=cat 1.png", f"photos/cat {n}.png")
    command: list[Any] = [sys.executable, "-m", "densevit", "predict", saved_model, "photos", "--out", "found"]
    with subprocess.Popen([*command, "--devices", "2"], env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while not [*Path("found").glob("parts/*/images.json")] and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    names = [Part(Path("found"), n, 2).state().name for n in (1, 2)]
    assert set(names) <= {"stopped", "not begun", "complete"} and "stopped" in names
    assert subprocess.run([*command, "--resume", "--max-failed", "1"], check=False).returncode == 0
    assert len(read("found/images.json")) == 399 and not Path("found/parts").exists()
