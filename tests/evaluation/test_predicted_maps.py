"""Maps of all tasks that `evaluate --out` writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.data.data_builder import build_data
from densevit.weights import model_file
from tests.built_models import build_model

CONFIG = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: batch}
  things: {name: detr, num_queries: 5,
     transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1}}
  distance: {name: dpt, width: 16, output: sigmoid, max_depth: 60}
  segments:
    {name: mask2former, num_queries: 5, transformer: {width: 64, num_heads: 2, decoder_layers: 1, feedforward: 16},
     pixel_decoder: {layers: 1, feedforward: 16}}
data: {name: scenes, panoptic: true, image_size: 32, batch_size: 2, num_workers: 0, train_length: 2, val_length: 5}
trainer: {max_steps: 1, precision: "32", accelerator: cpu, devices: 1}
"""
FOLDERS = ("surfaces/semantic", "segments/semantic", "segments/panoptic", "distance/depth")


@pytest.mark.integration
def test_written_maps_reproduce_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    config = configs.load(tmp_path / "run")
    data = build_data(config)
    model_file.save(build_model(config, data.classes), tmp_path / "run" / "model.safetensors")
    assert main(["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    maps = {f"{folder}/{image_id}.png" for folder in FOLDERS for image_id in range(1, 6)} | {"segments/panoptic.json"}
    maps |= {f"distance/depth/{image_id}.npy" for image_id in range(1, 6)}
    detections = {f"detections-{head}.json" for head in ("things", "segments")}
    assert written >= {"metrics.json", "confusion-surfaces.csv", "panoptic-segments.csv"} | detections | maps
    drawn = {file for file in written if file.startswith("predictions/")}
    assert len(drawn) == 4 * (5 + 3 + 2)  # of each head: samples, and the worst and the best images
    ids = np.array([c.file_id for c in data.classes["segmentation"]])
    hits = pixels = 0
    for index in range(5):
        truth = data.val[index]["targets"]
        found = np.array(Image.open(tmp_path / "out" / "surfaces" / "semantic" / f"{truth['image_id']}.png"))
        hits += (found == ids[truth["semantic"].numpy()]).sum()
        pixels += found.size
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["surfaces/aAcc"] == hits / pixels
