"""Runs with `data.on_error: skip`: what is counted and printed, and metrics of the readable images alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.cli import main

RECIPE = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: group}}
data:
  {name: label_maps, root: data, classes: [a, b], image_size: 32, batch_size: 1, num_workers: 0, on_error: skip}
optim: {lr: 1e-2}
trainer: {max_epochs: 2, precision: "32", accelerator: cpu, evaluate_every_epochs: 1, ema: 0.5}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images a split, of which two are damaged, and a recipe."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, shape in (("images", (32, 32, 3)), ("labels", (32, 32))):
            place = tmp_path / "data" / kind / split
            place.mkdir(parents=True)
            for index in range(6):
                pixels = rng.integers(0, 256 if kind == "images" else 2, shape).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.{'jpg' if kind == 'images' else 'png'}")
        for name in "14":
            file = tmp_path / "data" / "images" / split / f"{name}.jpg"
            file.write_bytes(file.read_bytes()[:-100] + b"\xff\xd9")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings", "cwd")
def test_run_counts_and_names_the_skipped_images(folder: Path) -> None:
    with pytest.warns(UserWarning) as warned:
        assert main(["train", "recipe.yaml", "--run-dir", "run"]) == 0
    printed = "\n".join(str(warning.message) for warning in warned)
    for name in "14":
        reason = f"data/images/train/{name}.jpg cannot be read"
        assert printed.count(reason) == 1, printed
    for epoch in (1, 2):
        assert f"epoch {epoch}: 2 images were left out, because files cannot be read" in printed
    assert "validation at step 6: 2 images were left out" in printed
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics.pop("skipped/images") == 2
    for name in "14":
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            (folder / "data" / kind / "val" / f"{name}.{suffix}").unlink()
    assert densevit.evaluate("run") == metrics  # those of the four images that can be read
