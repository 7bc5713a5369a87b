"""Two tasks of third-party distributions, poses and surface normals, through every command, installed as by pip."""

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densevit.cli import main
from densevit.config import load as load_config
from densevit.data.data_builder import build_data
from tests.plugins.test_methods import losses
from tests.written_files import save_image

pytestmark = pytest.mark.integration

PACKAGES = ("mynet", "poses", "normals")
POSES = """
seed: 0
backbone: {name: mynet, width: 32}
heads: {poses: {name: pose_grid}}
data:
  {name: figures, side: 64, image_size: 64, transforms: resize, batch_size: 8, num_workers: 0, length: 256,
   val_length: 16}
optim: {lr: 5e-3}
trainer: {max_steps: 90, accelerator: cpu, precision: 32, evaluations: 1}
"""
NORMALS = """
seed: 0
backbone: {name: mynet, width: 16}
heads: {normals: {name: normals}}
data: {name: solids, image_size: 64, batch_size: 8, num_workers: 0, length: 64, val_length: 3}
optim: {lr: 5e-3}
trainer: {max_steps: 60, accelerator: cpu, precision: 32, evaluations: 1}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`trained(name, config)`: a folder with what `train`, `evaluate` and `predict` wrote; each is run once.

    run/, evaluated/, and predicted/, from the validation images in images/, whose names are their ids.
    """
    folders: dict[str, Path] = {}

    def trained(name: str, config: str) -> Path:
        if name not in folders:
            folders[name] = folder = tmp_path_factory.mktemp(name)
            (folder / f"{name}.yaml").write_text(config)
            run = str(folder / "run")
            assert main(["train", str(folder / f"{name}.yaml"), "--run-dir", run]) == 0
            assert main(["evaluate", run, "--out", str(folder / "evaluated")]) == 0
            for sample in validation_samples(folder):
                pixels = sample["image"].permute(1, 2, 0).numpy()
                save_image(folder / "images" / f"{sample['targets']['image_id']}.png", pixels)
            arguments = ["--out", str(folder / "predicted"), "--device", "cpu"]
            assert main(["predict", run, str(folder / "images"), *arguments]) == 0
        return folders[name]

    return trained


@pytest.fixture
def poses(trained: Callable[[str, str], Path]) -> Path:
    return trained("poses", POSES)


def validation_samples(folder: Path) -> list[Any]:
    data = build_data(load_config(next(folder.glob("*.yaml")))).val
    return [data[index] for index in range(len(data))]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# ---- keypoints ----


def test_a_third_party_keypoint_head_learns(poses):
    metrics = read(poses / "run" / "metrics.json")
    assert metrics["poses/AP"] > 0.3 and metrics["poses/AP50"] > 0.7
    assert np.mean(losses(poses / "run")[-3:]) < 0.5 * losses(poses / "run")[0]
    assert metrics == read(poses / "evaluated" / "metrics.json")


def test_keypoint_metrics_equal_those_of_pycocotools_on_the_written_files(poses, tmp_path):
    """With ground truth from the data set itself, written here in COCO's format."""
    samples = validation_samples(poses)
    annotations = []
    for targets in (sample["targets"] for sample in samples):
        for n, (x0, y0, x1, y1) in enumerate(targets["boxes"].tolist()):
            points = [(x - 0.5, y - 0.5, v) if v else (0, 0, 0) for x, y, v in targets["keypoints"][n].tolist()]
            numbers = [number for point in points for number in point]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": targets["image_id"],
                "category_id": 7,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": targets["area"][n].item(),
                "iscrowd": int(targets["iscrowd"][n]),
                "keypoints": numbers,
            }
            annotation["num_keypoints"] = sum(v > 0 for _, _, v in points)
            annotations.append(annotation)
    assert {annotation["iscrowd"] for annotation in annotations} == {0, 1}
    assert {annotation["num_keypoints"] for annotation in annotations} > {0, 5}  # some are outside of the image
    images = [{"id": sample["targets"]["image_id"]} for sample in samples]
    dataset = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "figure"}]}
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    names = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
    metrics = read(poses / "evaluated" / "metrics.json")
    for file in ("evaluated/detections.json", "predicted/predictions.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / "truth.json"))
            evaluation = COCOeval(truth, truth.loadRes(str(poses / file)), "keypoints")
            evaluation.params.kpt_oks_sigmas = np.array([0.05, 0.08, 0.08, 0.1, 0.1])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        expected = {f"poses/{name}": value for name, value in zip(names, evaluation.stats, strict=True)}
        assert {name: -1 if value is None else value for name, value in metrics.items()} == pytest.approx(expected)


# ---- surface normals ----


def test_written_normals_have_the_errors_of_the_metrics(trained: Callable[[str, str], Path]):
    normals, errors = trained("normals", NORMALS), []
    for sample in validation_samples(normals):
        image_id, truth = sample["targets"]["image_id"], sample["targets"]["normals"].numpy()
        found = np.load(normals / "predicted" / "normals" / f"{image_id}.npy")
        assert found.shape == (3, 64, 64) and found.dtype == np.float32
        assert np.linalg.norm(found, axis=0) == pytest.approx(1, abs=1e-4)
        assert np.abs(found - np.load(normals / "evaluated" / "normals" / f"{image_id}.npy")).max() < 1e-4
        errors.append(np.degrees(np.arccos((found * truth).sum(0)[(truth != 0).any(axis=0)].clip(-1, 1))))
    metrics = read(normals / "evaluated" / "metrics.json")
    assert np.concatenate(errors).mean() == pytest.approx(metrics["normals/mean"], abs=0.02)
    assert np.median(np.concatenate(errors)) == pytest.approx(metrics["normals/median"], abs=0.02)


# ---- both ----


def test_a_head_passes_the_check_with_random_targets(capsys):
    assert main(["check", "head", "pose_grid"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"pose_grid: (\d+) of \1 checks passed", out)
    assert "random targets" not in out and "without a target type" not in out
