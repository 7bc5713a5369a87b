"""Presets of depth maps read the layouts of the public data sets, with metres computed by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from densevit.data.datasets.depth_maps import PRESETS, DepthMaps, Preset
from tests.data.datasets.conftest import METRES, MILLIMETRES, Write, metres


def nyu(folder: Path, write_image: Write, depth: Write) -> None:
    for split, place, scene in (("train", "sync", "/kitchen_0028b"), ("test", "official_splits/test", "bathroom")):
        write_image(f"{place}/{scene.lstrip('/')}/rgb_00045.jpg")
        depth(f"{place}/{scene.lstrip('/')}/sync_depth_00045.png", MILLIMETRES)
        line = f"{scene}/rgb_00045.jpg {scene}/sync_depth_00045.png 518.8579\n"
        (folder / f"nyudepthv2_{split}_files_with_gt.txt").write_text(line)


def kitti(folder: Path, write_image: Write, depth: Write) -> None:
    for split, drive in (("train", "2011_09_26_drive_0057_sync"), ("test", "2011_09_28_drive_0002_sync")):
        day = drive[:10]
        write_image(f"{day}/{drive}/image_02/data/0000000311.png")
        write_image(f"{day}/{drive}/image_02/data/0000000000.png")
        annotated = "data_depth_annotated/" + {"train": "train", "test": "val"}[split]
        depth(f"{annotated}/{drive}/proj_depth/groundtruth/image_02/0000000311.png", 12 * MILLIMETRES)
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


MADE: dict[str, tuple[Callable[..., None], str, list[list[float]], float | None]] = {
    # preset: (its layout, the end of the names of its images, metres, focal length)
    "nyu": (nyu, "rgb_00045", [[0, 1.5, 2, 2.5], [1, 3, 0, 0], [0.5, 2, 2, 2]], 518.8579),
    "kitti": (kitti, "image_02/data/0000000311", [[0, 70.3125, 0, 0], [46.875, 0, 0, 0], [23.4375, 0, 0, 0]], 721.5),
    "diode": (diode, "_000_010", [[0, 1.5, 2, 0], [1, 3, 65.535, 0], [0, 2, 2, 0]], None),
}


@pytest.mark.parametrize("preset", sorted(MADE))
def test_each_preset_reads_its_usual_layout(preset, tmp_path, write_image, depth):
    assert set(MADE) == {file.stem for file in PRESETS.glob("*.yaml")} == set(Preset.__args__)
    make, name, expected, focal = MADE[preset]
    make(tmp_path, write_image, depth)
    eased = {"depth_range": (1, 200)} if preset == "kitti" else {}  # for few values
    for split in ("train", "val"):
        dataset = DepthMaps(split, root=str(tmp_path), preset=preset, **eased)
        assert len(dataset) == 1 and dataset[0]["targets"]["image_id"].endswith(name)
        assert metres(dataset) == expected and dataset[0]["targets"].get("focal") == focal
