"""densevit/data/datasets/partly_labelled.py: sets in which some classes are labelled, their mixes and transforms."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import section
from densevit.data.data_builder import build_data
from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.data.datasets.mix import Mix
from densevit.data.datasets.partly_labelled import PartlyLabelled
from densevit.errors import DataError
from densevit.interfaces import IGNORE, VOID, Class, Dataset
from densevit_scenes.dataset import Scenes
from tests.counted_dataset import CountedDataset

SCENES: dict[str, Any] = {"name": "scenes", "image_size": 64, "train_length": 4, "val_length": 2}
NAMES = [c.name for c in Scenes("train").classes["detection"]]
SURFACES = [c.name for c in Scenes("train").classes["segmentation"] if not c.thing]


def test_other_objects_are_removed_and_their_pixels_unlabelled():
    options = {"panoptic": True, "labelled_classes": [*NAMES[:2], SURFACES[0]]}
    dataset, plain = build_data({**SCENES, **options}).train, Scenes("train", 64, 4, panoptic=True)
    assert "labelled" in dataset.provides and dataset.classes == plain.classes
    assert dataset.sizes().tolist() == plain.sizes().tolist() and dataset.scene(1).camera == plain.scene(1).camera
    of_map = np.array([c.name in options["labelled_classes"] for c in plain.classes["segmentation"]])
    for index in range(4):
        targets, every = dataset[index]["targets"], plain[index]["targets"]
        keep = every["labels"] < 2
        assert targets["labelled"] == options["labelled_classes"]
        assert torch.equal(targets["boxes"], every["boxes"][keep]) and len(targets["masks"]) == keep.sum()
        semantic, panoptic = every["semantic"].numpy(), every["panoptic"].numpy()
        assert (targets["semantic"].numpy() == np.where(of_map[semantic], semantic, IGNORE)).all()
        assert (targets["panoptic"].numpy() == np.where(of_map[panoptic // 1000], panoptic, VOID)).all()
        assert torch.equal(targets["depth"], every["depth"])


class Flat(CountedDataset):
    """An image with pixels of each class."""

    provides = ("semantic",)
    classes = {"segmentation": tuple(Class(name, i, (i, i, i)) for i, name in enumerate(("Background", "a", "b")))}  # noqa: RUF012

    def __getitem__(self, index: int):
        targets = {"image_id": index, "semantic": torch.tensor([[0, 1, 2]])}
        return {"image": torch.zeros(3, 1, 3, dtype=torch.uint8), "targets": targets}


@pytest.mark.parametrize(
    ("names", "pixels"),
    [(["Background", "a"], [255, 1, 255]), (["a", "b"], [255, 1, 2]), (["Background", "b", "a"], [0, 1, 2])],
)
def test_background_is_labelled_where_all_classes_are(names: list[str], pixels: list[int]):
    targets = PartlyLabelled(Flat(), names, "x")[0]["targets"]
    assert targets["semantic"].tolist() == [pixels]
    assert targets["labelled"] == [name for name in names if name != "Background" or 0 in pixels]


def test_an_unknown_name_is_an_error():
    message = rf"data.labelled_classes: the data has no class '{NAMES[0]}s'. Did you mean '{NAMES[0]}'\? Known: "
    with pytest.raises(DataError, match=message):
        _ = build_data({**SCENES, "labelled_classes": f"{NAMES[0]}s"}).train


def mix(**labelled: Any) -> Dataset:
    sets = {name: {**SCENES, **({"labelled_classes": names} if names else {})} for name, names in labelled.items()}
    return build_data({"name": "mix", "sets": sets, "image_size": 64}).train


def test_the_sets_of_a_mix_have_their_labelled_classes():
    dataset = mix(a=NAMES[:1], b=None)
    assert dataset[0]["targets"]["labelled"] == NAMES[:1] and {*NAMES} <= {*dataset[4]["targets"]["labelled"]}
    assert "labelled" in MappedClasses(dataset, {"detection": [1, 0]})[0]["targets"]
    plain = mix(a=None, b=None)
    assert "labelled" not in plain.provides and all("labelled" not in plain[i]["targets"] for i in range(8))


class OtherClasses(Flat):
    classes = {"segmentation": tuple(Class(name, i, (i, i, i)) for i, name in enumerate(("Background", "c", "b")))}  # noqa: RUF012


def test_the_sets_of_a_mix_may_have_different_classes():
    """The pixels of both sets are classes 0, 1, 2 of their own."""
    sets = {
        "flat": {"name": f"{__name__}:Flat", "labelled_classes": ["a", "b"]},
        "other": {"name": f"{__name__}:OtherClasses", "labelled_classes": ["c"]},
    }
    dataset = Mix("train", sets)
    assert [*dataset.provides] == ["semantic", "labelled"]
    assert [(c.name, c.file_id) for c in dataset.classes["segmentation"]] == [
        *zip(("Background", "a", "b", "c"), range(4), strict=True)
    ]
    assert [dataset[i]["targets"]["semantic"].tolist() for i in range(2)] == [[[255, 1, 2]], [[255, 3, 255]]]
    assert [dataset[i]["targets"]["labelled"] for i in range(2)] == [["a", "b"], ["c"]]
    del sets["flat"]["labelled_classes"], sets["other"]["labelled_classes"]
    with pytest.raises(DataError, match="different classes: .*labelled_classes"):
        Mix("train", sets)


@pytest.mark.parametrize("option", [{}, {"mosaic": 1.0}, {"copy_paste": 1.0}, {"mixup": 8.0}])
def test_an_image_of_several_has_the_classes_that_are_labelled_in_all(option: dict[str, float]):
    sets = {"a": {**SCENES, "labelled_classes": NAMES[:2]}, "b": {**SCENES, "seed": 1, "labelled_classes": NAMES[1:]}}
    sets = {name: {**values, "depth": False, "semantic": "mosaic" in option} for name, values in sets.items()}
    data = {"name": "mix", "sets": sets, "image_size": 64, "batch_size": 8, "num_workers": 0, "transforms": "default"}
    batches = build_data({**data, **option}).train_loader()
    found = {tuple(target["labelled"]) for batch in batches for target in batch["targets"]}
    parts = {tuple(NAMES[:2]), tuple(NAMES[1:])}
    assert found <= parts | {(NAMES[1],)} and (found == parts if not option else (NAMES[1],) in found)


def test_the_section_takes_one_name_or_several():
    assert section("data", {**SCENES, "labelled_classes": "a"}, "x").labelled_classes == ("a",)
