"""The built-in data set: labels that match the rendering, and scenes that stay as they are."""

import hashlib
import math

import numpy as np
import pytest
import torch

from densevit.errors import DataError
from densevit_scenes.dataset import Scenes
from densevit_scenes.renderer import render
from densevit_scenes.scene import Scene
from densevit_scenes.surfaces import FLOOR, WALL

SIDE = 128


def test_boxes_masks_semantic_and_panoptic_maps_agree():
    """Masks are the things of the panoptic map, surfaces its stuff, and objects that are not annotated are void."""
    dataset = Scenes("train", image_size=SIDE, panoptic=True)
    names = [one.name for one in dataset.classes["segmentation"]]
    assert names[8:] == ["floor", "ground", "wall", "sky"]
    assert dataset.classes["panoptic"] == dataset.classes["segmentation"] and dataset.provides[-1] == "panoptic"
    shown, twice = set(), 0
    for index in range(40):
        targets = dataset[index]["targets"]
        semantic, panoptic, masks = targets["semantic"], targets["panoptic"], targets["masks"].to("cpu")
        assert panoptic.dtype == torch.int32 and panoptic.shape == (SIDE, SIDE)
        ids = []
        for box, label, mask, area in zip(targets["boxes"], targets["labels"], masks, targets["area"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == len(rows) >= 12 and (semantic[mask] == label).all()
            [one] = panoptic[mask].unique().tolist()
            assert torch.equal(panoptic == one, mask) and one // 1000 == label
            ids.append(one)
        assert sorted(ids) == sorted(  # of each class 0, 1, 2, ...
            1000 * label + n for label in range(8) for n in range(targets["labels"].tolist().count(label))
        )
        twice += any(one % 1000 for one in ids)
        assert masks.sum(dim=0).max() == 1 and not targets["iscrowd"].any()
        others = ~masks.any(dim=0)
        assert (semantic[others] >= 8).float().mean() > 0.97  # the rest are objects too occluded to be annotated
        assert torch.equal(panoptic[others], torch.where(semantic[others] < 8, -1, 1000 * semantic[others].int()))
        kinds = {names[i] for i in semantic[others].unique() if i >= 8}
        assert kinds <= {"floor", "wall"} or kinds <= {"ground", "sky"}
        shown |= kinds
    assert shown == set(names[8:]) and twice > 3


@pytest.mark.parametrize("view", [None, 100.0])
def test_depth_unprojects_onto_the_scene(view):
    """Unprojected pixels: floors are horizontal, walls vertical, and objects are on floors in front of walls."""
    for index in range(20):
        scene = Scenes("val", field_of_view=view).scene(index)
        rendering = render(scene, SIDE, SIDE)
        known = rendering.depth > 0
        x, y, z = _world(scene, rendering.depth)
        empty = rendering.owner == 0
        assert np.abs(y[known & empty & (rendering.surface == FLOOR)]).max() < 1e-3
        for number, wall in enumerate(scene.walls):
            beyond = wall.normal[0] * x + wall.normal[1] * z - wall.distance
            assert beyond[known].max() < 1e-3
            assert np.abs(beyond[empty & (rendering.surface == WALL + number)]).max(initial=0) < 1e-3
        for number, thing in enumerate(scene.things):
            shown = rendering.owner == number + 1
            if not shown.any():
                continue
            away = np.stack([x, y, z], axis=-1)[shown] - thing.centre
            assert np.linalg.norm(away, axis=1).max() < 0.9 * thing.size
            assert y[shown].min() > -1e-3


def _world(scene: Scene, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and z of each pixel: (H, W) float64."""
    height, width = depth.shape
    focal = scene.camera.focal * max(height, width)
    down, right = np.meshgrid(np.arange(height) + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2, indexing="ij")
    seen = np.stack([right / focal, down / focal, np.ones_like(down)], axis=-1) * depth[..., None]
    cos, sin = math.cos(scene.camera.pitch), math.sin(scene.camera.pitch)
    x, y, z = np.moveaxis(seen @ np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]]), -1, 0)
    return x, y + scene.camera.height, z


def _digest(dataset: Scenes, indices: range) -> str:
    digest = hashlib.sha256()
    for index in indices:
        targets = dataset[index]["targets"]
        for key in ("boxes", "labels", "masks", "semantic", "depth"):
            digest.update(np.asarray(targets[key]).tobytes())
    return digest.hexdigest()[:16]


def test_images_and_labels_have_not_changed():
    """Published scores depend on these: if a value changes, all scores must be measured again."""
    assert _digest(Scenes("train"), range(5)) == "28d2182cfc2e4c57"
    assert _digest(Scenes("val", image_size=(96, 160), seed=3), range(5)) == "cf34fee566573758"
    blocks = Scenes("train")[0]["image"].float().reshape(3, 4, 32, 4, 32).mean(dim=(0, 2, 4))
    rows = ([102.4, 105.4, 93.4, 85.3], [101.6, 103.1, 124.9, 85.4], [105.6, 115.9, 157.5, 93.6])
    torch.testing.assert_close(blocks[:3], torch.tensor(rows), atol=0.5, rtol=0)


def test_scenes_depend_on_split_seed_and_index_but_not_on_the_size():
    sets = [Scenes("train", train_length=20), Scenes("val", val_length=20), Scenes("train", train_length=20, seed=1)]
    assert len({dataset.scene(index).camera for dataset in sets for index in range(20)}) == 60
    small, large = Scenes("train", image_size=64)[4]["targets"], Scenes("train", image_size=256)[4]["targets"]
    assert (small["semantic"] == large["semantic"][2::4, 2::4]).float().mean() > 0.97


def test_another_lens_shows_the_same_scene():
    """The ray of the middle pixel is that of every lens. By hand, 90 degrees on 65 pixels are 32.5 pixels away."""
    for index in range(3):
        narrow, usual, wide = (
            Scenes("val", image_size=65, field_of_view=view)[index]["targets"] for view in (40, None, 90)
        )
        assert usual["depth"][32, 32] == narrow["depth"][32, 32] == wide["depth"][32, 32]
        assert wide["focal"] == pytest.approx(32.5) and narrow["focal"] == pytest.approx(32.5 / math.tan(math.pi / 9))
        assert 65 * 1.05 <= usual["focal"] <= 65 * 1.6
    ranged = Scenes("val", image_size=65, field_of_view=(50.0, 80.0))
    focals = [ranged[index]["targets"]["focal"] for index in range(20)]
    assert 32.5 / math.tan(math.radians(40)) < min(focals) < 0.8 * max(focals) < 0.8 * 32.5 / math.tan(math.radians(25))


def test_invalid_option_is_named():
    with pytest.raises(DataError, match="data.image_size is 16; scenes are at least 32"):
        Scenes("train", image_size=16)
    for view in (0, 180, (80, 50)):
        with pytest.raises(DataError, match=r"data\.field_of_view is .*; an angle above 0 and below 150 degrees"):
            Scenes("train", field_of_view=view)
    with pytest.raises(DataError, match="no split 'minival', only train, val, test"):
        Scenes("minival")
