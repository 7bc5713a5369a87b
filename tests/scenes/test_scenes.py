"""The built-in data set: statistics, and labels that match the rendering."""

import hashlib
import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from densevit.errors import DataError
from densevit.targets import RunLengthMasks
from densevit_scenes.dataset import Scenes, annotated
from densevit_scenes.renderer import Rendering, render
from densevit_scenes.scene import Scene, Thing
from densevit_scenes.shapes import Ball, Boxes
from densevit_scenes.surfaces import FLOOR, WALL

SIDE = 128


@dataclass
class Object:
    """An annotated object, with properties that are not in the labels."""

    thing: Thing
    visible: int  # pixels
    hidden: float  # part of its silhouette inside the image


@pytest.fixture(scope="module")
def thousand() -> list[list[Object]]:
    """The annotated objects of 1,000 images."""
    dataset = Scenes("train", image_size=SIDE, train_length=1000)
    return [_annotated(dataset.scene(index)) for index in range(1000)]


def _annotated(scene: Scene) -> list[Object]:
    rendering = render(scene, SIDE, SIDE)
    return [
        Object(scene.things[number], int(visible), 1 - visible / rendering.silhouettes[number])
        for number, visible in zip(*annotated(rendering), strict=True)
    ]


def _alone(scene: Scene, thing: Thing) -> Rendering:
    return render(replace(scene, things=(thing,)), SIDE, SIDE)


# ---- statistics ----


@pytest.mark.integration
def test_images_have_one_to_eight_objects_of_eight_classes(thousand: list[list[Object]]) -> None:
    counts = Counter(len(objects) for objects in thousand)
    assert set(counts) == set(range(1, 9))
    classes = Counter(one.thing.label for objects in thousand for one in objects)
    assert set(classes) == set(range(8))
    assert min(classes.values()) > 0.7 * max(classes.values())


@pytest.mark.integration
def test_median_object_is_at_most_a_quarter_of_the_side(thousand: list[list[Object]]) -> None:
    sides = [math.sqrt(one.visible) for objects in thousand for one in objects]
    assert SIDE / 8 < float(np.median(sides)) <= SIDE / 4


@pytest.mark.integration
def test_a_third_of_the_objects_are_more_than_a_fifth_occluded(thousand: list[list[Object]]) -> None:
    hidden = np.array([one.hidden for objects in thousand for one in objects])
    assert 1 / 3 <= (hidden > 0.2).mean() < 0.45
    assert (hidden < 0.01).mean() > 1 / 3


@pytest.mark.integration
@pytest.mark.parametrize("trait", ["color", "texture"])
def test_color_and_texture_do_not_depend_on_the_class(thousand: list[list[Object]], trait: str) -> None:
    from scipy.stats import chi2_contingency

    objects = list(itertools.chain.from_iterable(thousand))
    values = sorted({getattr(one.thing.coat, trait) for one in objects})
    table = np.zeros((8, len(values)))
    for one in objects:
        table[one.thing.label, values.index(getattr(one.thing.coat, trait))] += 1
    assert chi2_contingency(table).pvalue > 0.01


def test_silhouettes_are_unoccluded_masks() -> None:
    for index in range(15):
        scene = Scenes("val").scene(index)
        alone = [np.count_nonzero(_alone(scene, thing).owner) for thing in scene.things]
        assert render(scene, SIDE, SIDE).silhouettes.tolist() == alone


# ---- labels ----


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    dataset = Scenes("train", image_size=SIDE)
    return [dataset[index]["targets"] for index in range(60)]


def test_boxes_are_tight_and_masks_are_disjoint(samples: list[dict]) -> None:
    for targets in samples:
        for box, mask, area in zip(targets["boxes"], targets["masks"].to("cpu"), targets["area"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == len(rows) >= 12
        assert targets["masks"].to("cpu").sum(dim=0).max() == 1
        assert not targets["iscrowd"].any()


def test_semantic_map_has_classes_in_masks_and_surfaces_elsewhere(samples: list[dict]) -> None:
    names = [one.name for one in Scenes("val").classes["segmentation"]]
    assert names[8:] == ["floor", "ground", "wall", "sky"]
    shown = set()
    for targets in samples:
        semantic = targets["semantic"]
        for label, mask in zip(targets["labels"], targets["masks"].to("cpu"), strict=True):
            assert (semantic[mask] == label).all()
        rest = semantic[~targets["masks"].to("cpu").any(dim=0)]
        assert (rest >= 8).float().mean() > 0.97  # the rest are objects too occluded to be annotated
        kinds = {names[i] for i in rest.unique() if i >= 8}
        assert kinds <= {"floor", "wall"} or kinds <= {"ground", "sky"}
        shown |= kinds
    assert shown == set(names[8:])


def test_panoptic_map_has_the_masks_as_things_the_surfaces_as_stuff_and_the_rest_as_void() -> None:
    dataset = Scenes("train", image_size=SIDE, panoptic=True)
    assert dataset.classes["panoptic"] == dataset.classes["segmentation"] and dataset.provides[-1] == "panoptic"
    twice = 0
    for index in range(60):
        targets = dataset[index]["targets"]
        panoptic, semantic = targets["panoptic"], targets["semantic"]
        assert panoptic.dtype == torch.int32 and panoptic.shape == (SIDE, SIDE)
        known, ids = panoptic >= 0, []
        assert (panoptic[known] // 1000 == semantic[known]).all()
        for label, mask in zip(targets["labels"], targets["masks"].to("cpu"), strict=True):
            [one] = panoptic[mask].unique().tolist()
            assert torch.equal(panoptic == one, mask) and one // 1000 == label
            ids.append(one)
        assert sorted(ids) == sorted(  # of each class 0, 1, 2, ...
            1000 * label + n for label in range(8) for n in range(targets["labels"].tolist().count(label))
        )
        twice += any(one % 1000 for one in ids)
        others = ~targets["masks"].to("cpu").any(dim=0)
        assert torch.equal(panoptic[others] == -1, semantic[others] < 8)
        assert set(panoptic[others].tolist()) <= {-1, 8000, 9000, 10000, 11000}
    assert twice > 5


def test_heavily_occluded_objects_are_in_the_semantic_map_only() -> None:
    dataset = Scenes("train", image_size=SIDE)
    found = 0
    for index in range(100):
        scene = dataset.scene(index)
        rendering = render(scene, SIDE, SIDE)
        for number in {*range(len(scene.things))} - {*annotated(rendering)[0].tolist()}:
            shown = rendering.owner == number + 1
            assert shown.sum() < max(24, 0.2 * rendering.silhouettes[number])
            assert (dataset[index]["targets"]["semantic"].numpy()[shown] == scene.things[number].label).all()
            found += bool(shown.any())
    assert found > 5


def test_occluders_are_nearer() -> None:
    compared = 0
    for index in range(40):
        scene = Scenes("train").scene(index)
        rendering = render(scene, SIDE, SIDE)
        for number, thing in enumerate(scene.things):
            alone = _alone(scene, thing)
            hidden = (alone.owner > 0) & (rendering.owner != number + 1)
            assert (rendering.owner[hidden] > 0).all()
            assert (rendering.depth[hidden] <= alone.depth[hidden]).all()
            shown = rendering.owner == number + 1
            assert (rendering.depth[shown] == alone.depth[shown]).all()
            compared += int(hidden.sum())
    assert compared > 2000


def test_ball_size_matches_perspective_projection() -> None:
    seen = 0
    for index in range(150):
        scene = Scenes("train").scene(index)
        for thing in scene.things:
            if not isinstance(thing.shape, Ball):
                continue
            alone = _alone(scene, thing)
            mask = alone.owner > 0
            if mask[[0, -1]].any() or mask[:, [0, -1]].any():
                continue
            across, below, distance = scene.camera.see(thing.centre)
            # A sphere projects to an ellipse in the image plane.
            squared = across**2 + below**2 + distance**2
            off_axis, sine = distance**2 / squared, (thing.size / 2) ** 2 / squared  # squared cosine and sine
            axes = math.sqrt(sine * (1 - sine)) / (off_axis - sine) * math.sqrt(sine / (off_axis - sine))
            assert mask.sum() == pytest.approx(math.pi * axes * (scene.camera.focal * SIDE) ** 2, rel=0.03)
            assert alone.depth[mask].min() == pytest.approx(distance - thing.size / 2, abs=0.03 * thing.size)
            seen += 1
    assert seen > 30


def test_depth_unprojects_onto_the_scene() -> None:
    """Unprojected pixels: floors are horizontal, walls vertical, and objects stand on floors in front of walls."""
    for index in range(40):
        scene = Scenes("val").scene(index)
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
            alone = _alone(scene, thing)
            if not (alone.owner > 0)[-1].any():  # its base is in the image
                # Seen from above, a ball occludes its contact point; a box does not.
                lowest = _world(scene, alone.depth)[1][alone.owner > 0].min()
                assert lowest < (0.1 if isinstance(thing.shape, Boxes) else 0.25) * thing.size


def _world(scene: Scene, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and z of each pixel: (H, W) float64."""
    height, width = depth.shape
    focal = scene.camera.focal * max(height, width)
    down, right = np.meshgrid(np.arange(height) + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2, indexing="ij")
    seen = np.stack([right / focal, down / focal, np.ones_like(down)], axis=-1) * depth[..., None]
    cos, sin = math.cos(scene.camera.pitch), math.sin(scene.camera.pitch)
    x, y, z = np.moveaxis(seen @ np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]]), -1, 0)
    return x, y + scene.camera.height, z


# ---- determinism ----


def _digest(dataset: Scenes, indices: range) -> str:
    digest = hashlib.sha256()
    for index in indices:
        targets = dataset[index]["targets"]
        for key in ("boxes", "labels", "masks", "semantic", "depth"):
            digest.update(np.asarray(targets[key]).tobytes())
    return digest.hexdigest()[:16]


def test_images_and_labels_have_not_changed() -> None:
    """Published scores depend on these: if a value changes, all scores must be measured again."""
    assert _digest(Scenes("train"), range(5)) == "28d2182cfc2e4c57"
    assert _digest(Scenes("val", image_size=(96, 160), seed=3), range(5)) == "cf34fee566573758"
    blocks = Scenes("train")[0]["image"].float().reshape(3, 4, 32, 4, 32).mean(dim=(0, 2, 4))
    expected = torch.tensor(
        [
            [102.4, 105.4, 93.4, 85.3],
            [101.6, 103.1, 124.9, 85.4],
            [105.6, 115.9, 157.5, 93.6],
            [119.9, 100.1, 83.3, 114.3],
        ]
    )
    torch.testing.assert_close(blocks, expected, atol=0.5, rtol=0)


def test_images_do_not_depend_on_process_or_order() -> None:
    dataset = Scenes("train", train_length=8)
    in_workers = list(DataLoader(dataset, batch_size=None, num_workers=2))
    for index in (7, 0, 3):
        one, other = dataset[index], in_workers[index]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["targets"]["depth"], other["targets"]["depth"])
        assert torch.equal(one["targets"]["boxes"], other["targets"]["boxes"])


def test_splits_seeds_and_indices_have_distinct_scenes() -> None:
    sets = [Scenes("train", train_length=20), Scenes("val", val_length=20), Scenes("train", train_length=20, seed=1)]
    cameras = {dataset.scene(index).camera for dataset in sets for index in range(20)}
    assert len(cameras) == 60


def test_scenes_do_not_depend_on_the_size() -> None:
    small, large = Scenes("train", image_size=64)[4]["targets"], Scenes("train", image_size=256)[4]["targets"]
    agree = small["semantic"] == large["semantic"][2::4, 2::4]
    assert agree.float().mean() > 0.97


# ---- options ----


def test_samples_have_the_specified_dtypes_and_shapes() -> None:
    dataset = Scenes("val", image_size=(48, 80), val_length=3)
    sample = dataset[1]
    targets, count = sample["targets"], len(sample["targets"]["labels"])
    assert targets["masks"].shape == (count, 48, 80) and isinstance(targets.pop("masks"), RunLengthMasks)
    shapes = {key: (value.dtype, tuple(value.shape)) for key, value in targets.items() if key != "image_id"}
    assert (sample["image"].dtype, tuple(sample["image"].shape)) == (torch.uint8, (3, 48, 80))
    assert shapes == {
        "boxes": (torch.float32, (count, 4)),
        "labels": (torch.int64, (count,)),
        "area": (torch.float32, (count,)),
        "iscrowd": (torch.bool, (count,)),
        "semantic": (torch.uint8, (48, 80)),
        "depth": (torch.float32, (48, 80)),
    }
    assert targets["image_id"] == 2
    assert dataset.sizes().tolist() == [[48, 80]] * 3
    assert [one.file_id for one in dataset.classes["detection"]] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("shape", [(32, 256), (256, 32), (33, 47)])
def test_extreme_aspect_ratios_have_at_least_one_object(shape: tuple[int, int]) -> None:
    dataset = Scenes("train", image_size=shape)
    for index in range(30):
        targets = dataset[index]["targets"]
        assert len(targets["boxes"]) >= 1
        assert torch.isfinite(targets["depth"]).all()


def test_labels_not_requested_are_absent() -> None:
    dataset = Scenes("train", masks=False, semantic=False, depth=False)
    assert dataset.provides == ("boxes", "labels")
    assert set(dataset[0]["targets"]) == {"image_id", "boxes", "labels", "area", "iscrowd"}
    assert (len(dataset), len(Scenes("val"))) == (4000, 500)


def test_invalid_option_is_named() -> None:
    with pytest.raises(DataError, match="data.image_size is 16; scenes are at least 32"):
        Scenes("train", image_size=16)
    with pytest.raises(DataError, match="data.train_length is 0"):
        Scenes("train", train_length=0)
    with pytest.raises(DataError, match="no split 'minival', only train, val, test"):
        Scenes("minival")  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        Scenes("val")[500]
