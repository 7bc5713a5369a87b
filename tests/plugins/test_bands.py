"""A third party's data set of five channels of 16 bits, through every command, installed as by pip."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.data.data_builder import build_data

pytestmark = pytest.mark.integration

PACKAGES = ("mynet", "bands")
CONFIG = """
seed: 0
backbone: {name: mynet, width: 16}
heads: {segmentation: {name: segformer, width: 32}}
data: {name: fields, image_size: 64, transforms: crop, batch_size: 8, num_workers: 0}
optim: {lr: 2e-3}
trainer: {max_steps: 60, accelerator: cpu, precision: 32, evaluations: 1}
"""


@pytest.fixture(scope="module")
def folder(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/, a training, and images/ with a TIFF of five bands for each image of validation."""
    import tifffile

    folder = tmp_path_factory.mktemp("bands")
    (folder / "fields.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "fields.yaml"), "--run-dir", str(folder / "run")]) == 0
    (folder / "images").mkdir()
    dataset = build_data(configs.load(folder / "fields.yaml")).val
    for index in range(4):
        pixels = dataset[index]["image"].permute(1, 2, 0).numpy()
        tifffile.imwrite(folder / "images" / f"{index}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return folder


def test_range_mean_and_deviation_are_measured_and_stored(folder):
    config = configs.load(folder / "run" / "config.yaml")
    channels = config.backbone.channels
    assert channels is not None
    assert (channels.names, channels.dtype) == (("blue", "green", "red", "nir", "swir"), "uint16")
    assert config.backbone.mean is not None
    assert 1000 < channels.range[3][0] < 2500 < 5200 < channels.range[3][1]
    model = densevit.load(folder / "run")
    assert model.channels == channels
    batch = torch.from_numpy(np.array(channels.range, np.float32).T.copy())[:, :, None, None].round().to(torch.uint16)
    low, high = model.normalise(batch, torch.zeros(2, 1, 1, dtype=torch.bool))
    span = 1 / torch.tensor(config.backbone.std)[:, None, None]
    torch.testing.assert_close(high - low, span, rtol=2e-3, atol=0)


def test_the_fourth_channel_tells_the_crops_apart(folder):
    assert json.loads((folder / "run" / "metrics.json").read_text())["segmentation/mIoU"] > 0.9


def test_predict_reads_the_bands_and_draws_those_of_the_data_set(folder):
    assert main(["predict", str(folder / "run"), str(folder / "images"), "--out", str(folder / "out")]) == 0
    dataset = build_data(configs.load(folder / "fields.yaml")).val
    predictor = densevit.load(folder / "run")
    for index in range(4):
        sample = dataset[index]
        found = np.asarray(Image.open(folder / "out" / "semantic" / f"{index}.png"))
        assert (found == sample["targets"]["semantic"].numpy()).mean() > 0.9
        for given in (sample["image"], sample["image"].permute(1, 2, 0).numpy(), folder / "images" / f"{index}.tif"):
            result = predictor.predict(given)
            assert np.array_equal(result.semantic.numpy(), found)
        nir = result.image[..., 0].astype(float)  # displayed as red
        assert np.corrcoef(nir.ravel(), sample["image"][3].numpy().ravel())[0, 1] > 0.95
        assert (folder / "out" / "drawn" / f"{index}.jpg").is_file()
