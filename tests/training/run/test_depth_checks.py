"""Consistency of depth head, data and evaluation, checked before the run folder is created."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit import config as configs
from densevit.errors import ConfigError
from tests.training.runs import train

CONFIG = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {near: {name: dpt, width: 8}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 2, val_length: 2}
optim: {lr: 1e-3}
trainer: {max_steps: 1, precision: "32", accelerator: cpu}
"""
SCENES = "{name: scenes, train_length: 2, val_length: 2, image_size: 32, provides: [semantic]}"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., configs.Config]:
    """`config(*overrides)`."""
    path = tmp_path / "near.yaml"
    path.write_text(CONFIG)
    return lambda *overrides: configs.load(path, overrides)


@pytest.fixture
def stereo(tmp_path: Path) -> str:
    """A data set of images with uncalibrated disparity."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, size in (("images", (32, 32, 3)), ("labels", (32, 32))):
            folder = tmp_path / "stereo" / kind / split
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(1, 255, size, np.uint8)).save(folder / "a.png")
    return f"name: depth, root: {tmp_path / 'stereo'}, depth_type: disparity, metric: false"


def test_metric_head_on_unitless_depth_raises_at_startup(config, stereo: str, tmp_path: Path) -> None:
    alone = f"data={{{stereo}, image_size: 32, batch_size: 1}}"
    mixed = f"data={{name: mix, batch_size: 1, image_size: 32, sets: {{scenes: {SCENES}, stereo: {{{stereo}}}}}}}"
    for data, output, key in (
        (alone, "softplus", "'depth' (data.metric: false)"),
        (mixed, "sigmoid", "'mix' (data.sets.stereo.metric: false)"),
    ):
        with pytest.raises(ConfigError) as error:
            train(config(data, f"heads.near.output={output}"), tmp_path / "run")
        message = str(error.value)
        assert message.startswith("heads.near (dpt) learns metres, but the depth of the data set has no unit")
        assert f"The data set is {key}" in message and "output: relative" in message
    assert not (tmp_path / "run").exists()
