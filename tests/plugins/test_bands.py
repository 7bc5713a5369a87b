"""A third party's data set of five channels of 16 bits, through every command, installed as by pip."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.data.data_builder import build_data

PACKAGES = ("mynet", "bands")
CONFIG = """
seed: 0
backbone: {name: mynet, width: 16}
heads: {segmentation: {name: segformer, width: 32}}
data: {name: fields, image_size: 64, transforms: crop, batch_size: 8, num_workers: 0}
optim: {lr: 2e-3}
trainer: {max_steps: 60, accelerator: cpu, precision: 32, evaluations: 1, loggers: []}
"""


@pytest.mark.integration
def test_the_fourth_channel_tells_the_crops_apart_in_training_and_in_files(cwd: Path):
    """The range is measured and stored; a file is predicted as its array, and drawn in the bands of the data set."""
    import tifffile

    Path("fields.yaml").write_text(CONFIG)
    assert main(["train", "fields.yaml", "--run-dir", "run"]) == 0
    predictor, sample = densevit.load("run"), build_data(configs.load("fields.yaml")).val[0]
    assert predictor.channels == configs.load("run/config.yaml").backbone.channels
    assert 1000 < predictor.channels.range[3][0] < 2500 < 5200 < predictor.channels.range[3][1]
    pixels = sample["image"].permute(1, 2, 0).numpy()
    tifffile.imwrite("0.tif", pixels, photometric="minisblack", planarconfig="contig")
    assert main(["predict", "run", "0.tif", "--out", "out"]) == 0
    predicted, result = np.asarray(Image.open("out/semantic/0.png")), predictor.predict(pixels)
    assert (
        np.array_equal(result.semantic, predicted) and (predicted == sample["targets"]["semantic"].numpy()).mean() > 0.9
    )
    assert np.corrcoef(result.image[..., 0].ravel(), pixels[..., 3].ravel())[0, 1] > 0.95, "displayed as red"
