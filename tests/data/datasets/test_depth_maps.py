"""Images with depth maps: metres computed by hand, layouts, presets, and wrong units, found at startup."""

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
import torch
import yaml
from PIL import Image

from densevit.config import load
from densevit.data.build import build_data
from densevit.data.datasets.dataset_validation import Scan
from densevit.data.datasets.depth_maps import PRESETS, DepthMaps, Preset
from densevit.data.datasets.depth_range import sample
from densevit.data.datasets.depth_values import Calibration
from densevit.data.datasets.examination import Examination
from densevit.data.datasets.timestamp_pairs import associate
from densevit.errors import DataError
from densevit.registry import options
from densevit_scenes.dataset import Scenes
from densevit_workbench.interchange.dataset_writer import write_split

REAL = Path(os.environ.get("DENSEVIT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MILLIMETRES = np.array([[0, 1500, 2000, 2500], [1000, 3000, 65535, 0], [500, 2000, 2000, 2000]], np.uint16)
METRES = [[0, 1.5, 2, 2.5], [1, 3, 65.535, 0], [0.5, 2, 2, 2]]

Write = Callable[..., None]


@pytest.fixture
def write_image(tmp_path: Path) -> Write:
    def write_image(path: str, size: tuple[int, int] = (4, 3), **how: Any) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 10, 10)).save(file, **how)

    return write_image


@pytest.fixture
def depth(tmp_path: Path) -> Write:
    """Writes a depth file: PNG, NPY, NPZ, EXR or PFM, according to its suffix."""

    def depth(path: str, values: Any = MILLIMETRES) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(values)
        if file.suffix == ".npy":
            np.save(file, values)
        elif file.suffix == ".npz":
            np.savez(file, depth=values)
        elif file.suffix == ".exr":
            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, {"Z": np.ascontiguousarray(values)}).write(str(file))
        elif file.suffix == ".pfm":
            head = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1\n"
            file.write_bytes(head.encode() + values[::-1].astype("<f4").tobytes())
        else:
            Image.fromarray(values).save(file)

    return depth


@pytest.fixture
def pair(write_image: Write, depth: Write) -> Write:
    """One pair in images/train and labels/train."""

    def pair(values: Any = MILLIMETRES, suffix: str = ".png") -> None:
        height, width = np.asarray(values).shape[:2]
        write_image("images/train/a.jpg", (width, height))
        depth(f"labels/train/a{suffix}", values)

    return pair


def metres(dataset: DepthMaps, index: int = 0) -> list[list[float]]:
    found = dataset[index]["targets"]["depth"]
    assert found.dtype == torch.float32
    return [[round(value, 5) for value in row] for row in found.tolist()]


# ---- samples ----


def test_samples_and_sizes(tmp_path: Path, write_image: Write, depth: Write) -> None:
    for name in ("b", "a"):
        write_image(f"images/train/{name}.jpg")
        depth(f"labels/train/{name}.png")
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001)
    assert len(dataset) == 2 and dataset.provides == ("depth",) and dataset.classes == {} and dataset.metric
    assert dataset.sizes().tolist() == [[3, 4]] * 2
    one = dataset[0]
    assert set(one["targets"]) == {"image_id", "depth"}
    assert one["targets"]["image_id"] == "a" and dataset[1]["targets"]["image_id"] == "b"
    assert one["image"].shape == (3, 3, 4) and one["image"].dtype == torch.uint8
    assert metres(dataset) == METRES
    assert len(DepthMaps("train", root=str(tmp_path), scale=0.001, limit=1)) == 1
    assert metres(pickle.loads(pickle.dumps(dataset))) == METRES


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pfm", ".tif", ".exr"])
def test_floating_point_files_are_in_metres(suffix: str, tmp_path: Path, pair: Write) -> None:
    pair(np.array([[1.5, 0, -1], [np.nan, np.inf, 2]], np.float32), suffix)
    assert metres(DepthMaps("train", root=str(tmp_path))) == [[1.5, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize(("stored", "scale", "expected"), [(256 * 35, 1 / 256, 35.0), (12_345, 1 / 5000, 2.469)])
def test_scales_of_kitti_and_tum(stored: int, scale: float, expected: float, tmp_path: Path, pair: Write) -> None:
    pair(np.full((2, 2), stored, np.uint16))
    assert metres(DepthMaps("train", root=str(tmp_path), scale=scale)) == [[expected] * 2] * 2


def test_disparity_with_calibration_matches_middleburys_formula(tmp_path: Path, pair: Write) -> None:
    """3740 px * 160 mm / (disparity + dmin): 598.4 / 300 = 1.99467 m, 598.4 / 400 = 1.496 m."""
    pair(np.array([[0, 100, 200]], np.uint8))
    dataset = DepthMaps("train", root=str(tmp_path), kind="disparity", stereo=Calibration(0.16, 3740, 200))
    assert metres(dataset) == [[0, 1.99467, 1.496]]


def test_disparity_is_multiplied_by_scale(tmp_path: Path, pair: Write) -> None:
    """1600 sixteenths are 100 pixels: 0.5 * 1000 / 100 = 5 m."""
    pair(np.array([[0, 1600]], np.uint16))
    dataset = DepthMaps("train", root=str(tmp_path), kind="disparity", stereo=Calibration(0.5, 1000), scale=1 / 16)
    assert metres(dataset) == [[0, 5]]


def test_calibration_may_be_per_image(tmp_path: Path, write_image: Write, depth: Write) -> None:
    """Motorcycle-like: 4000 px * 0.2 m / (60 + 140) = 4 m; the other 1000 * 0.1 / 50 = 2 m."""
    texts = {
        "a": "cam0=[4000.0 0 1244.7; 0 4000 1019; 0 0 1]\ncam1=[9 0 1; 0 9 1; 0 0 1]\ndoffs=140\nbaseline=200.0\n",
        "b": "cam0=[1000 0 1; 0 1000 1; 0 0 1]\nbaseline = 100\nwidth=4\n",
    }
    for name, disparity in (("a", 60.0), ("b", 50.0)):
        write_image(f"train/{name}/im0.png", (2, 1))
        depth(f"train/{name}/disp0.pfm", np.array([[disparity, np.inf]]))
        (tmp_path / f"train/{name}/calib.txt").write_text(texts[name])
    where = {"images": "{split}/*/im0.png", "labels": "{split}/*/disp0.pfm", "calibration": "{split}/*/calib.txt"}
    dataset = DepthMaps("train", root=str(tmp_path), kind="disparity", **where)  # type: ignore[arg-type]
    assert [metres(dataset, i) for i in (0, 1)] == [[[4, 0]], [[2, 0]]]
    (tmp_path / "train/b/calib.txt").write_text("cam0=[1000 0 1]\n")
    with pytest.raises(DataError, match=r"b/calib\.txt has no baseline"):
        DepthMaps("train", root=str(tmp_path), kind="disparity", **where)  # type: ignore[arg-type]


def test_inverse_depth(tmp_path: Path, pair: Write) -> None:
    pair(np.array([[0, 500, 125]], np.uint16))
    dataset = DepthMaps("train", root=str(tmp_path), kind="inverse_depth", scale=0.001)
    assert metres(dataset) == [[0, 2, 8]]


def test_relative_inverse_depth_is_not_metric(tmp_path: Path, pair: Write, capsys: pytest.CaptureFixture[str]) -> None:
    pair(np.array([[0, 1, 100, 250]], np.uint8))
    for kind in ("disparity", "inverse_depth"):
        dataset = DepthMaps("train", root=str(tmp_path), kind=kind, metric=False)  # type: ignore[arg-type]
        assert not dataset.metric
        assert metres(dataset) == [[0, 1, 0.01, 0.004]]
    assert "0.004 to 1 (relative, without unit), median 0.01, 75.0% of pixels known" in capsys.readouterr().err


def test_invalid_and_out_of_range_values_become_unknown(tmp_path: Path, pair: Write) -> None:
    pair()
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001, invalid=[65535, 2000], min_depth=1, max_depth=2.5)
    assert metres(dataset) == [[0, 1.5, 0, 2.5], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_validity_masks(suffix: str, tmp_path: Path, pair: Write, depth: Write) -> None:
    pair()
    depth(f"masks/train/a{suffix}", np.array([[1, 1, 0, 0]] * 3, np.float32 if suffix == ".npy" else np.uint8))
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001, valid="masks/{split}")
    assert metres(dataset) == [[0, 1.5, 0, 0], [1, 3, 0, 0], [0.5, 2, 0, 0]]
    depth(f"masks/train/a{suffix}", np.ones((2, 4), np.uint8))
    with pytest.raises(DataError, match=rf"masks/train/a{suffix} has \(2, 4\) pixels; expected .*\(3, 4\)"):
        DepthMaps("train", root=str(tmp_path), scale=0.001, valid="masks/{split}")


@pytest.mark.parametrize("upright", [True, False])
def test_depth_is_aligned_with_exif_orientation(
    upright: bool, tmp_path: Path, write_image: Write, depth: Write
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    write_image("images/train/a.jpg", exif=exif)
    depth("labels/train/a.png", MILLIMETRES.T.copy() if upright else MILLIMETRES)
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001)
    size = (4, 3) if upright else (3, 4)
    assert dataset.sizes().tolist() == [list(size)]
    assert dataset[0]["image"].shape[1:] == dataset[0]["targets"]["depth"].shape == size


# ---- unit checks ----


def test_range_and_median_are_logged_once_per_split(
    tmp_path: Path, pair: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair()
    DepthMaps("train", root=str(tmp_path), scale=0.001, max_depth=2)
    shown = capsys.readouterr().err
    assert shown == "depth, train: 0.5 to 65.5 m, median 2 m, 83.3% of pixels known (read 1 of 1)\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    DepthMaps("train", root=str(tmp_path), scale=0.001)
    assert capsys.readouterr().err == ""


def test_millimetres_read_as_metres_raise(tmp_path: Path, pair: Write) -> None:
    pair(MILLIMETRES.astype(np.float32), ".npy")
    with pytest.raises(DataError) as error:
        DepthMaps("train", root=str(tmp_path), max_depth=10)
    message = str(error.value)
    file = tmp_path / "labels/train/a.npy"
    assert (
        f"the depth of 'train' has a median of 2000 m (500 to 65535 m in 1 files, such as {file} with a median of "
        "2000 m); expected 0.05 to 250 m" in message
    )
    assert "It looks like millimetres: set data.scale=0.001 (median 2 m)." in message


@pytest.mark.parametrize("scale", [1 / 256, 1.0])
def test_sparse_lidar_is_checked_on_valid_pixels(
    scale: float, tmp_path: Path, pair: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 2 % of the pixels, 5 to 60 m in KITTI's 1/256 m; the rest is 0, so that the median of all pixels is 0."""
    rng = np.random.default_rng(0)
    stored = np.zeros((50, 100), np.uint16)
    hit = rng.permutation(5000)[:101]
    stored.flat[hit] = np.linspace(5 * 256, 60 * 256, 101).round()
    pair(stored)
    where: dict[str, Any] = {"root": str(tmp_path), "range": (4.0, 60.0), "max_depth": 80}
    if scale != 1:
        assert (DepthMaps("train", scale=scale, **where)[0]["targets"]["depth"] > 0).sum() == 101
        assert capsys.readouterr().err.startswith("depth, train: 5 to 60 m, median 32.5 m, 2.0% of pixels known")
        return
    with pytest.raises(DataError) as error:
        DepthMaps("train", scale=scale, **where)
    assert "a median of 8320 m (1280 to 15360 m in 1 files, such as " in str(error.value)
    assert "expected 4 to 60 m. " in str(error.value)
    assert "1/256 m, as in KITTI (data.scale=0.00390625: 32.5 m)" in str(error.value)


def test_file_in_another_unit_is_named(
    tmp_path: Path, write_image: Write, depth: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, unit in (("a", 1), ("b", 1), ("c", 1000), ("d", 1)):
        write_image(f"images/train/{name}.jpg", (2, 1))
        depth(f"labels/train/{name}.npy", unit * np.array([[0.0, 2.0]], np.float32))
    DepthMaps("train", root=str(tmp_path))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("depth, train: 2 to 2000 m, median 2 m")
    assert second == (
        "depth, train: the median of 1 of these files is not in data.range, 0.05 to 250 m; the farthest is 2000 m, in "
        f"{tmp_path / 'labels/train/c.npy'}. Do all files have the same unit?"
    )


def test_integer_files_require_a_scale(tmp_path: Path, pair: Write) -> None:
    pair()
    with pytest.raises(DataError) as error:
        DepthMaps("train", root=str(tmp_path))
    message = str(error.value)
    assert (
        "data.scale is missing" in message and "labels/train/a.png holds whole numbers (0 to 65535, median" in message
    )
    assert "It looks like millimetres: set data.scale=0.001 (median 2 m)." in message
    assert "1/256 m, as in KITTI (data.scale=0.00390625: 7.81 m)" in message
    assert len(DepthMaps("train", root=str(tmp_path), metric=False)) == 1


@pytest.mark.parametrize(
    ("scale", "range", "fix"),
    [
        (0.001, (3.0, 60.0), "1/256 m, as in KITTI: set data.scale=0.00390625"),
        (1e-6, (0.05, 250.0), "millimetres: set data.scale=0.001"),
        (
            0.001,
            (300.0, 400.0),
            r"Set data\.scale, the number of metres per unit in a file\. .*data\.range=\[LOW,HIGH\]",
        ),
    ],
)
def test_wrong_scale_and_declared_range(
    scale: float, range: tuple[float, float], fix: str, tmp_path: Path, pair: Write
) -> None:
    pair()
    with pytest.raises(DataError, match=fix):
        DepthMaps("train", root=str(tmp_path), scale=scale, range=range)


def test_invalid_calibration_raises(tmp_path: Path, pair: Write) -> None:
    pair(np.array([[100, 200]], np.uint8))
    stereo: dict[str, Any] = {"root": str(tmp_path), "kind": "disparity"}
    with pytest.raises(DataError, match=r"baseline looks like millimetres: set data\.stereo\.baseline=0\.16"):
        DepthMaps("train", stereo=Calibration(160, 3740, 200), **stereo)
    with pytest.raises(DataError, match=r"Check data\.stereo: baseline \(metres\), focal"):
        DepthMaps("train", stereo=Calibration(0.16, 3.7, 200), **stereo)
    pair(np.full((1, 2), 5000.0, np.float32), ".npy")
    (tmp_path / "labels/train/a.png").unlink()
    with pytest.raises(DataError, match=r"or data\.kind=depth, if files store depth"):
        DepthMaps("train", root=str(tmp_path), kind="inverse_depth")


def test_maps_without_any_depth(tmp_path: Path, pair: Write) -> None:
    pair(np.zeros((2, 2), np.float32), ".npy")
    with pytest.raises(DataError, match="None of 1 depth maps of the split 'train' .* holds a depth above 0"):
        DepthMaps("train", root=str(tmp_path))


def test_evenly_spaced_maps_are_sampled() -> None:
    assert sample(3) == [0, 1, 2] and sample(128) == list(range(128))
    some = sample(10_000)
    assert len(some) == 128 and some[0] == 0 and some[-1] == 9999 and set(np.diff(some)) == {78, 79}


# ---- invalid data ----


def test_image_and_depth_map_sizes_must_match(tmp_path: Path, pair: Write, write_image: Write) -> None:
    pair()
    write_image("images/train/a.jpg", size=(8, 6))
    with pytest.raises(DataError, match=r"a\.jpg has 8 x 6 pixels, but its depth map .*a\.png has 4 x 3"):
        DepthMaps("train", root=str(tmp_path), scale=0.001)


def test_file_changed_after_scanning_raises(tmp_path: Path, pair: Write, write_image: Write, depth: Write) -> None:
    pair()
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001)
    depth("labels/train/a.png", np.ones((5, 5), np.uint16))
    with pytest.raises(DataError, match=r"a\.png has \(5, 5\) pixels"):
        dataset[0]
    write_image("images/train/a.jpg", size=(5, 5))
    with pytest.raises(DataError, match=r"a\.jpg has changed since the start"):
        dataset[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": None}, r"data\.root is missing"),
        ({"root": "nowhere"}, r"data\.root: there is no folder nowhere"),
        ({"limit": 0}, r"data\.limit is 0"),
        ({"scale": 0}, r"data\.scale is 0; expected a number above 0"),
        ({"scale": -1}, r"data\.scale is -1"),
        ({"max_depth": 0}, r"data\.max_depth is 0"),
        ({"min_depth": 5, "max_depth": 2}, r"data\.min_depth is 5 and data\.max_depth 2"),
        ({"range": (2, 1)}, r"data\.range is \[2, 1\]"),
        ({"range": (1, 2), "metric": False}, r"data\.range is in metres"),
        ({"kind": "disparity"}, r"needs data\.stereo=\{baseline: METRES, focal: PIXELS\}.*data\.metric=false"),
        (
            {"kind": "disparity", "stereo": Calibration(1, 1), "calibration": "x"},
            r"data\.calibration and data\.stereo are both given",
        ),
        ({"stereo": Calibration(1, 1)}, r"data\.stereo is for disparity, but data\.kind is depth"),
        (
            {"images": {"val": "x"}},
            r"data\.images has no split 'train', only val\. Fix: add `train: PATH` to data\.images, or",
        ),
        ({"images": "rgb.txt", "labels": "depth.txt", "valid": "x"}, r"cannot be used with pairs by time"),
        ({"preset": "nyuv2"}, r"data\.preset: there is no 'nyuv2'\. Presets: diode, kitti, nyu, tum"),
        ({"labels": "nowhere"}, r"There is no folder .*nowhere"),
    ],
)
def test_invalid_options_raise(given: dict[str, Any], message: str, tmp_path: Path, pair: Write) -> None:
    pair()
    with pytest.raises(DataError, match=message):
        DepthMaps("train", **({"root": str(tmp_path), "scale": 0.001} | given))


# ---- layouts ----


def test_lists_of_three_columns_and_images_without_depth(
    tmp_path: Path, pair: Write, write_image: Write, depth: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_image(f"raw/{name}/1.png")
        depth(f"annotated/val/{name}/1.png")
    (tmp_path / "list.txt").write_text("a/1.png a/1.png 721.5377\n\nb/1.png None 718.856\n/raw/c/1.png c/1.png 707\n")
    where = {"images": "raw", "labels": "annotated", "list_file": "list.txt"}
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001, **where)  # type: ignore[arg-type]
    assert [dataset[i]["targets"]["image_id"] for i in (0, 1)] == ["raw/a/1", "raw/c/1"]
    assert metres(dataset) == METRES
    assert "(read 2 of 2); 1 image without depth left out" in capsys.readouterr().err
    examination = Examination(None)
    DepthMaps("train", root=str(tmp_path), scale=0.001, scan=Scan(examination=examination), **where)  # type: ignore[arg-type]
    assert examination.findings[0].heading == "1 of 3 images without a depth map"
    depth("masks/x.npy")
    with pytest.raises(DataError, match=r"data\.valid pairs files by name; data\.list_file must then hold names"):
        DepthMaps("train", root=str(tmp_path), scale=0.001, valid="masks", **where)  # type: ignore[arg-type]
    (tmp_path / "list.txt").write_text("a/1.png a/2.png 721.5377\n")
    with pytest.raises(DataError, match=r"(?s)1 files do not exist.*\n  a/2\.png"):
        DepthMaps("train", root=str(tmp_path), scale=0.001, **where)  # type: ignore[arg-type]
    (tmp_path / "list.txt").write_text("a/1.png None 721.5377\n")
    with pytest.raises(DataError, match="is empty"):
        DepthMaps("train", root=str(tmp_path), scale=0.001, **where)  # type: ignore[arg-type]


def test_list_of_names_with_validity_masks(tmp_path: Path, write_image: Write, depth: Write) -> None:
    for name in ("a", "b"):
        write_image(f"images/{name}.jpg")
        depth(f"labels/{name}.png")
        depth(f"masks/{name}.npy", np.ones((3, 4)))
    (tmp_path / "list.txt").write_text("b\n")
    where = {"images": "images", "labels": "labels", "valid": "masks", "list_file": "list.txt"}
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001, **where)  # type: ignore[arg-type]
    assert len(dataset) == 1 and metres(dataset) == METRES


def test_timestamp_pairs_match_tums_tool() -> None:
    """Against the rule written out: of all pairs less than 20 ms apart, nearest first, each timestamp used once."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = (sorted((rng.permutation(10_000)[:40] / 10_000).tolist()) for _ in range(2))
        near = sorted((abs(a - b), a, b) for a in first for b in second if abs(a - b) < 0.02)
        expected = []
        for _, a, b in near:
            if a in first and b in second and a not in dict(expected) and b not in dict(expected).values():
                expected.append((a, b))
        assert [(first[i], second[j]) for i, j in associate(first, second, 0.02)] == sorted(expected)


def test_invalid_timestamps_raise(tmp_path: Path, write_image: Write, depth: Write) -> None:
    write_image("one/rgb/1.png")
    (tmp_path / "one/rgb.txt").write_text("# timestamp filename\n1.00 rgb/1.png\n2.0 rgb/2.png\n")
    where: dict[str, Any] = {"root": str(tmp_path), "images": "{split}/rgb.txt", "labels": "{split}/depth.txt"}
    where |= {"splits": {"train": "one"}, "scale": 0.001}
    (tmp_path / "one/depth.txt").write_text("1.03 depth/1.png\n")
    with pytest.raises(DataError, match=r"no image has a depth map within 0\.02 s \(data\.seconds\)"):
        DepthMaps("train", **where)
    with pytest.raises(DataError, match=r"1 files that do not exist: one/depth/1\.png"):
        DepthMaps("train", seconds=0.05, **where)
    depth("one/depth/1.png")
    assert DepthMaps("train", seconds=0.05, **where)[0]["targets"]["image_id"] == "one/rgb/1"
    (tmp_path / "one/depth.txt").write_text("now depth/1.png\n")
    with pytest.raises(DataError, match=r"depth\.txt, line 1: expected a time and a file, not 'now depth/1\.png'"):
        DepthMaps("train", **where)
    (tmp_path / "one/depth.txt").unlink()
    with pytest.raises(DataError, match=r"depth\.txt cannot be read"):
        DepthMaps("train", **where)


def test_written_scenes_round_trip_to_the_millimetre(tmp_path: Path) -> None:
    scenes = Scenes("train", image_size=(48, 64), train_length=2, val_length=2)
    assert len(list(write_split(scenes, tmp_path, "train"))) == 2
    where = {"images": "{split}/images", "labels": "{split}/depth"}
    dataset = DepthMaps("train", root=str(tmp_path), scale=0.001, **where)  # type: ignore[arg-type]
    for i in range(2):
        rendered = scenes[i]["targets"]["depth"]
        torch.testing.assert_close(dataset[i]["targets"]["depth"], rendered, atol=0.00051, rtol=0)


# ---- presets ----


def nyu(folder: Path, write_image: Write, depth: Write) -> None:
    for split, place, scene in (("train", "sync", "/kitchen_0028b"), ("test", "official_splits/test", "bathroom")):
        write_image(f"{place}/{scene.lstrip('/')}/rgb_00045.jpg")
        depth(f"{place}/{scene.lstrip('/')}/sync_depth_00045.png")
        line = f"{scene}/rgb_00045.jpg {scene}/sync_depth_00045.png 518.8579\n"
        (folder / f"nyudepthv2_{split}_files_with_gt.txt").write_text(line)


def kitti(folder: Path, write_image: Write, depth: Write, raw: str = "", annotated: bool = True) -> None:
    for split, drive in (("train", "2011_09_26_drive_0057_sync"), ("test", "2011_09_28_drive_0002_sync")):
        day = drive[:10]
        write_image(f"{raw}{day}/{drive}/image_02/data/0000000311.png")
        write_image(f"{raw}{day}/{drive}/image_02/data/0000000000.png")
        official = {"train": "train/", "test": "val/"}[split] if annotated else ""
        depth(
            f"data_depth_annotated/{official}{drive}/proj_depth/groundtruth/image_02/0000000311.png", 12 * MILLIMETRES
        )
        (folder / f"eigen_{split}_files_with_gt.txt").write_text(
            f"{day}/{drive}/image_02/data/0000000311.png {drive}/proj_depth/groundtruth/image_02/0000000311.png 721.5"
            f"\n{day}/{drive}/image_02/data/0000000000.png None 721.5\n"
        )


def diode(folder: Path, write_image: Write, depth: Write) -> None:
    for split, kind, scene in (("train", "indoors", "00019"), ("val", "outdoor", "00022")):
        stem = f"{split}/{kind}/scene_{scene}/scan_00183/{scene}_00183_{kind}_000_010"
        write_image(f"{stem}.png")
        depth(f"{stem}_depth.npy", np.array(METRES, np.float32)[..., None])
        depth(f"{stem}_depth_mask.npy", np.array([[1, 1, 1, 0]] * 3, np.float32))


def tum(folder: Path, write_image: Write, depth: Write) -> None:
    for split, name in (("train", "rgbd_dataset_freiburg1_xyz"), ("val", "rgbd_dataset_freiburg2_desk")):
        where = f"{split}/{name}"
        write_image(f"{where}/rgb/1305031102.175304.png")
        write_image(f"{where}/rgb/1305031102.300000.png")
        depth(f"{where}/depth/1305031102.160407.png", 5 * (MILLIMETRES // 10))
        head = "# color images\n# file: 'x.bag'\n# timestamp filename\n"
        images = "1305031102.175304 rgb/1305031102.175304.png\n1305031102.300000 rgb/1305031102.300000.png\n"
        (folder / where / "rgb.txt").write_text(head + images)
        (folder / where / "depth.txt").write_text(head + "1305031102.160407 depth/1305031102.160407.png\n")


MADE: dict[str, tuple[Callable[..., None], list[str], list[list[float]]]] = {
    # preset: (its layout, the images of train and val, metres)
    "nyu": (
        nyu,
        ["sync/kitchen_0028b/rgb_00045", "official_splits/test/bathroom/rgb_00045"],
        [[0, 1.5, 2, 2.5], [1, 3, 0, 0], [0.5, 2, 2, 2]],
    ),
    "kitti": (
        kitti,
        [
            "2011_09_26/2011_09_26_drive_0057_sync/image_02/data/0000000311",
            "2011_09_28/2011_09_28_drive_0002_sync/image_02/data/0000000311",
        ],
        [[0, 70.3125, 0, 0], [46.875, 0, 0, 0], [23.4375, 0, 0, 0]],
    ),
    "diode": (
        diode,
        [
            "indoors/scene_00019/scan_00183/00019_00183_indoors_000_010",
            "outdoor/scene_00022/scan_00183/00022_00183_outdoor_000_010",
        ],
        [[0, 1.5, 2, 0], [1, 3, 65.535, 0], [0, 2, 2, 0]],
    ),
    "tum": (
        tum,
        [
            "train/rgbd_dataset_freiburg1_xyz/rgb/1305031102.175304",
            "val/rgbd_dataset_freiburg2_desk/rgb/1305031102.175304",
        ],
        [[0, 0.15, 0.2, 0.25], [0.1, 0.3, 6.553, 0], [0.05, 0.2, 0.2, 0.2]],
    ),
}
EASED = {"kitti": {"range": (1, 200)}, "tum": {"range": (0.05, 8)}}  # for the few values of the generated maps


@pytest.mark.parametrize("preset", sorted(MADE))
def test_each_preset_reads_its_usual_layout(preset: Preset, tmp_path: Path, write_image: Write, depth: Write) -> None:
    make, names, expected = MADE[preset]
    make(tmp_path, write_image, depth)
    for split, name in zip(("train", "val"), names, strict=True):
        dataset = DepthMaps(split, root=str(tmp_path), preset=preset, **EASED.get(preset, {}))  # type: ignore[arg-type]
        assert [dataset[i]["targets"]["image_id"] for i in range(len(dataset))] == [name]
        assert metres(dataset) == expected


@pytest.mark.parametrize(("raw", "annotated"), [("raw/", True), ("input/", False), ("", False)])
def test_kitti_has_several_layouts(
    raw: str, annotated: bool, tmp_path: Path, write_image: Write, depth: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    kitti(tmp_path, write_image, depth, raw, annotated)
    dataset = DepthMaps("val", root=str(tmp_path), preset="kitti", range=(1, 200))
    assert dataset[0]["targets"]["image_id"].startswith(raw + "2011_09_28/")
    assert "1 image without depth left out" in capsys.readouterr().err


def test_tum_recordings_may_share_a_folder(tmp_path: Path, write_image: Write, depth: Write) -> None:
    tum(tmp_path, write_image, depth)
    for split in ("train", "val"):
        next((tmp_path / split).iterdir()).rename(tmp_path / next((tmp_path / split).iterdir()).name)
    splits = {"train": "*freiburg1_*", "val": "rgbd_dataset_freiburg2_desk"}
    for split in ("train", "val"):
        dataset = DepthMaps(split, root=str(tmp_path), preset="tum", splits=splits, range=(0.05, 8))
        assert len(dataset) == 1


def test_diode_indoors_only(tmp_path: Path, write_image: Write, depth: Write) -> None:
    diode(tmp_path, write_image, depth)
    inside = "{split}/indoors/*/*/*"
    where = {"images": f"{inside}.png", "labels": f"{inside}_depth.npy", "valid": f"{inside}_depth_mask.npy"}
    assert len(DepthMaps("train", root=str(tmp_path), preset="diode", **where)) == 1  # type: ignore[arg-type]


def test_presets_are_yaml_files_of_options() -> None:
    assert {file.stem for file in PRESETS.glob("*.yaml")} == set(MADE) == set(Preset.__args__)  # type: ignore[attr-defined]
    for file in PRESETS.glob("*.yaml"):
        options.check(DepthMaps, ("split",), "depth", yaml.safe_load(file.read_text()), "data")


# ---- sections and docs ----


def test_each_section_builds_training_and_validation_batches(
    tmp_path: Path, write_image: Write, depth: Write, project: Path
) -> None:
    """A data set without classes; the plugin is named by its class if no entry point is installed."""
    for preset, (make, *_) in MADE.items():
        make(tmp_path / preset, *(_into(preset, write) for write in (write_image, depth)))
        config = _config(project, project / f"configs/data/{preset}.yaml", tmp_path / preset, EASED.get(preset, {}))
        assert config.data.options["preset"] == preset
        data = build_data(config)
        assert data.classes == {} and data.provides == ("depth",)
        batch = next(iter(data.train_loader()))
        assert batch["targets"][0]["depth"].shape == batch["targets"][0]["size"]
        assert next(iter(data.val_loader()))["targets"][0]["truth"]["depth"].shape == (3, 4)


def _into(folder: str, write: Write) -> Write:
    return lambda path, *given, **how: write(f"{folder}/{path}", *given, **how)


def _config(project: Path, section: Path, root: Path, eased: dict[str, Any]) -> Any:
    given = [f"data={section}", f"data.root={root}", "data.batch_size=1", "data.num_workers=0"]
    given += [f"data.{key}={list(value)}" for key, value in eased.items()]
    config = load(project / "configs/detr_swin.yaml", given)
    config.data.name = "densevit.data.datasets.depth_maps:DepthMaps"
    return config


def test_section_and_docs_for_custom_data(tmp_path: Path, write_image: Write, depth: Write, project: Path) -> None:
    for split in ("train", "val"):
        write_image(f"images/{split}/a.jpg")
        depth(f"labels/{split}/a.png")
    page = (project / "docs/own-depth-maps.md").read_text()
    (tmp_path / "depth.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    for section, eased in ((project / "configs/data/depth.yaml", {"scale": 0.001}), (tmp_path / "depth.yaml", {})):
        given = [f"data={section}", f"data.root={tmp_path}", *(f"data.{key}={value}" for key, value in eased.items())]
        config = load(project / "configs/detr_swin.yaml", given)
        assert config.data.name == "depth"
        config.data.name = "densevit.data.datasets.depth_maps:DepthMaps"
        assert metres(build_data(config).val)[0] == METRES[0]  # type: ignore[arg-type]


# ---- real images ----


@pytest.mark.parametrize(
    ("split", "count", "low", "median", "high"), [("train", 40, 1.151, 1.626, 2.863), ("val", 14, 1.257, 1.613, 2.891)]
)
def test_middlebury_range_matches_the_calibration_formula(
    split: str, count: int, low: float, median: float, high: float, capsys: pytest.CaptureFixture[str]
) -> None:
    root = REAL / "depth"
    if not root.is_dir():
        pytest.skip("needs the folder depth of real images; set DENSEVIT_DATA to where it lies")
    dataset = DepthMaps(
        split, root=str(root), images="{split}/*.jpg", labels="{split}/*.png", scale=0.001, range=(1, 3)
    )
    assert len(dataset) == count and set(dataset.sizes()[:, 0].tolist()) == {370}
    known = torch.cat([one[one > 0] for one in (dataset[i]["targets"]["depth"] for i in range(count))])
    assert known.min().item() == pytest.approx(low) and known.max().item() == pytest.approx(high)
    assert known.median().item() == pytest.approx(median, abs=0.001)
    assert f"depth, {split}: {low:.3g} to {high:.3g} m, median {median:.2f}"[:-1] in capsys.readouterr().err


def test_lists_name_files_outside_of_root_only_if_allowed(tmp_path: Path, write_image: Write, depth: Write) -> None:
    write_image("secret.png")
    depth("set/labels/a.png")
    (tmp_path / "set/list.txt").write_text("../secret.png labels/a.png\n")
    (tmp_path / "set/rgb.txt").write_text("1.00 ../secret.png\n")
    (tmp_path / "set/depth.txt").write_text("1.01 labels/a.png\n")
    by_name: Any = {"images": ".", "labels": "labels", "list_file": "list.txt"}
    by_time: Any = {"images": "rgb.txt", "labels": "depth.txt"}
    for where, message in ((by_name, r"list\.txt, line 1"), (by_time, r"rgb\.txt, line 1")):
        with pytest.raises(
            DataError, match=rf"{message}: .*\.\./secret\.png.* outside of .*set\. .*data\.outside_paths"
        ):
            DepthMaps("train", root=str(tmp_path / "set"), scale=0.001, **where)
        allowed = DepthMaps("train", root=str(tmp_path / "set"), scale=0.001, outside_paths=True, **where)
        assert metres(allowed) == METRES


@pytest.mark.parametrize(("largest", "kind", "scale"), [(255, np.uint8, 1.0), (65535, np.uint16, 0.001)])
def test_files_that_all_reach_the_largest_number_are_named(
    largest: int, kind: type, scale: float, tmp_path: Path, write_image: Write, depth: Write
) -> None:
    """Depth scaled for display, whose median of 40 m is plausible, and a sensor's number for unknown."""
    for name in ("a", "b"):
        write_image(f"images/train/{name}.jpg")
        depth(f"labels/train/{name}.png", np.array([[40 / scale] * 3 + [largest]] * 3).astype(kind))
    options: dict[str, Any] = {"root": str(tmp_path), "scale": scale}
    with pytest.warns(
        UserWarning,
        match=rf"highest depth of each of 2 files of 'train' .*a\.png, \.\.\.\) is {largest}, .*data\.metric=fal",
    ):
        DepthMaps("train", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DepthMaps("train", **options, metric=False)
        DepthMaps("train", **options, invalid=[largest])
        depth("labels/train/b.png", np.array([[40 / scale] * 4] * 3).astype(kind))
        DepthMaps("train", **options)
