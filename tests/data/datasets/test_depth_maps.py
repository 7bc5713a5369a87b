"""Images with depth maps: metres computed by hand, layouts and lists of files, and invalid options."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.datasets.depth_maps import DepthMaps, file_types
from densevit.data.datasets.depth_values import Calibration, Unknown
from densevit.errors import DataError
from tests.data.datasets.conftest import METRES, MILLIMETRES, metres, opened

# ---- samples ----


def test_samples_and_sizes(tmp_path, write_image, depth):
    for name in ("b", "a"):
        write_image(f"images/train/{name}.jpg")
        depth(f"labels/train/{name}.png", MILLIMETRES)
    dataset = opened(DepthMaps, "train", root=str(tmp_path), scale=0.001)
    assert len(dataset) == 2 and dataset.provides == ("depth",) and dataset.classes == {} and dataset.metric
    assert dataset.sizes().tolist() == [[3, 4]] * 2
    one = dataset[0]
    assert set(one["targets"]) == {"image_id", "depth"}
    assert one["targets"]["image_id"] == "a" and dataset[1]["targets"]["image_id"] == "b"
    assert one["image"].shape == (3, 3, 4) and one["image"].dtype == torch.uint8
    assert metres(dataset) == METRES
    assert len(opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, limit=1)) == 1
    assert metres(pickle.loads(pickle.dumps(dataset))) == METRES


def test_files_of_predictions_have_the_scale_of_the_training_data_of_their_head():
    data = {scale: DataSection(name="depth", scale=scale) for scale in (0.001, 0.25)}
    of_heads = {"near": None, "far": {}, "own": {"depth": "a type"}}
    model: Any = SimpleNamespace(training_data=data[0.001], reference_data={"far": data[0.25]}, target_types=of_heads)
    types = file_types(model)
    assert [types[head]["depth"].scale for head in ("near", "far")] == [0.001, 0.25]
    assert types["own"] == of_heads["own"]
    model.training_data = DataSection(name="scenes")
    assert file_types(model)["near"] == {}


def test_validity_masks(tmp_path, depth_pair, depth):
    depth_pair(MILLIMETRES)
    depth("masks/train/a.png", np.array([[1, 1, 0, 0]] * 3, np.uint8))
    dataset = opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, valid="masks/{split}")
    assert metres(dataset) == [[0, 1.5, 0, 0], [1, 3, 0, 0], [0.5, 2, 0, 0]]
    depth("masks/train/a.png", np.ones((2, 4), np.uint8))
    with pytest.raises(DataError, match=r"masks/train/a\.png .*\(2, 4\).*\(3, 4\)"):
        opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, valid="masks/{split}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, r"data\.limit is 0"),
        ({"scale": 0}, r"data\.scale is 0"),
        ({"depth_type": "disparity"}, r"needs data\.stereo=.*data\.metric=false"),
        ({"stereo": Calibration(1, 1)}, r"data\.stereo is for disparity, but data\.depth_type is depth"),
        ({"images": {"val": "x"}}, r"data\.images has no split 'train', only val\. .*`train: PATH`"),
        ({"preset": "nyuv2"}, r"data\.preset: .*'nyuv2'.* diode, kitti, nyu"),
        ({"unknown": Unknown(above=0.01)}, r"(?s)'train'.*no pixel has a known depth|no pixel has a known depth"),
        ({"labels": "nowhere/{split}"}, r"no folder .*nowhere/train.*Name the labels with data\.labels"),
    ],
)
def test_invalid_options_raise(given, message, tmp_path, depth_pair):
    depth_pair(MILLIMETRES)
    with pytest.raises(DataError, match=message):
        opened(DepthMaps, "train", **({"root": str(tmp_path), "scale": 0.001} | given))


def test_lists_of_three_columns_and_images_without_depth(tmp_path, depth_pair, write_image, depth, capsys):
    for name in ("a", "b", "c"):
        write_image(f"raw/{name}/1.png")
        depth(f"annotated/val/{name}/1.png", MILLIMETRES)
    (tmp_path / "list.txt").write_text("a/1.png a/1.png 721.5377\n\nb/1.png None 718.856\n/raw/c/1.png c/1.png 707\n")
    where = {"images": "raw", "labels": "annotated", "list_file": {"train": "list.txt"}}
    dataset = opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, **where)
    assert [dataset[i]["targets"]["image_id"] for i in (0, 1)] == ["raw/a/1", "raw/c/1"]
    assert metres(dataset) == METRES
    assert "(read 2 of 2); 1 image without depth left out" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("a/1.png a/2.png 721.5377\n")
    with pytest.raises(DataError, match=r"list\.txt, line 1: .*a/2\.png does not exist, .*copy it there"):
        opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, **where)
