"""Routes of new users, each command as typed: from own labels to an exported file, from an own ViT to a table."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.slow


def densevit(*arguments: object, cwd: Path) -> str:
    """Runs a command; returns what it prints. Fails with its output."""
    command = [sys.executable, "-m", "densevit", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(cwd)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


DEPTH = ("data.images={split}/images", "data.labels={split}/depth", "data.scale=0.001", "heads.depth.max_depth=100")
SMALL = ("backbone=random_vit.yaml", "data.image_size=64", "data.batch_size=4", "trainer.max_epochs=2")
BACKBONE = "name: vit\nvariant: nano\n"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    densevit("scenes", "--out", "scenes", "--count", 12, "--size", 64, cwd=tmp_path)
    (tmp_path / "random_vit.yaml").write_text(BACKBONE)
    frames = sorted((tmp_path / "scenes").rglob("*.png"))
    images = [cv2.imread(str(frame)) for frame in frames if cv2.imread(str(frame)).std() > 0][:5]
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for image in images:
        video.write(image)
    video.release()
    return tmp_path


@pytest.mark.parametrize(
    ("start", "data", "head"),
    [
        ("start/instances", ["data=folder_masks", "data.root=scenes"], "instances"),
        ("start/depth", ["data=depth", "data.root=scenes", *DEPTH], "depth"),
    ],
)
def test_own_labels_from_doctor_to_an_exported_file(start: str, data: list[str], head: str, scenes: Path):
    said = densevit("doctor", start, *data, "--out", "doctor.html", cwd=scenes)
    assert "0 errors" in said and (scenes / "doctor.html").is_file()
    overrides = [*SMALL, "backbone.weights=random"]
    densevit("train", start, *data, *overrides, "--run-dir", "run", cwd=scenes)
    metrics = json.loads((scenes / "run" / "metrics.json").read_text())
    assert any(name.startswith(f"{head}/") for name in metrics)
    densevit("evaluate", "run", cwd=scenes)
    densevit("export", "run", "--out", "model.onnx", cwd=scenes)
    image = next(path for path in sorted((scenes / "scenes").rglob("*.png")) if "val" in str(path))
    for model in ("run", "model.onnx"):
        out = f"out-{Path(model).stem}"
        densevit("predict", model, image, "clip.mp4", "--out", out, cwd=scenes)
        assert any((scenes / out).rglob("clip*")), "the frames of the video"


def test_own_vit_from_a_template_to_a_table(tmp_path: Path):
    densevit("new", "backbone", "mynet", "--out", ".", cwd=tmp_path)
    package = tmp_path / "mynet"
    module = next(
        path for path in package.rglob("*.py") if re.search(r"^class \w+\(.*Backbone\)", path.read_text(), re.M)
    )
    [name] = re.findall(r"^class (\w+)\(.*Backbone\)", module.read_text(), re.M)
    (tmp_path / "own_vit.py").write_text(module.read_text())
    said = densevit("check", "backbone", f"own_vit:{name}", cwd=tmp_path)
    assert "FAILED" not in said
    protocol = ["data.image_size=64", "data.batch_size=4", "data.train_length=8", "data.val_length=4"]
    options = ["--backbones", f"own_vit:{name},pixels", "--heads", "setr", "--train", "--images", "8", "--rounds", "1"]
    table = densevit("benchmark", *options, "--batches", "1", "--out", "table", *protocol, cwd=tmp_path)
    assert f"own_vit:{name}" in table and "mIoU" in table
