"""Several data sets as one: shares, composed batches, classes, sizes and names of images."""

from collections import Counter

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.mix import Mix
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.errors import DensevitError, UnreadableFileError
from densevit_scenes.dataset import Scenes
from tests.data.datasets import test_file_checks


def section(length: int = 3, seed: int = 0, **more):
    return {"name": "scenes", "train_length": length, "val_length": 2, "seed": seed, "image_size": 32, **more}


def test_images_have_the_labels_of_their_own_data_set():
    mix = Mix("train", {"a": section(provides=["boxes", "labels"]), "b": section(seed=1, provides=["semantic"])})
    assert [*mix.provides] == ["boxes", "labels", "semantic"]
    assert mix[0]["targets"].keys() == {"image_id", "focal", "boxes", "labels", "area", "iscrowd"}
    assert mix[3]["targets"].keys() == {"image_id", "focal", "semantic"}
    other = Scenes("train", train_length=3, seed=1, image_size=32)
    assert torch.equal(mix[4]["image"], other[1]["image"])
    assert torch.equal(mix[4]["targets"]["semantic"], other[1]["targets"]["semantic"])
    assert Mix("train", {"a": section(provides=["depth"])}).classes.keys() == set()


class Named(Scenes):
    def image_name(self, index: int) -> str:
        return f"{index}.png"


def test_validation_has_each_image_once_named_by_its_set():
    mix = Mix("val", {"a": section(share=5), "b": section(seed=1, share=1, name=f"{__name__}:Named")})
    assert [mix[i]["targets"]["image_id"] for i in range(len(mix))] == ["a/1", "a/2", "b/1", "b/2"]
    assert [mix.image_name(i) for i in range(4)] == [None, None, "b/0.png", "b/1.png"]


@pytest.mark.parametrize(
    ("lengths", "shares", "counts"),
    [
        ((6, 3), None, (6, 3)),
        ((6, 3), (1, 1), (6, 6)),  # the smaller set twice
        ((4, 3), (1, 3), (4, 12)),  # every image of both at least once
        ((10, 3), (0.5, 0.25), (10, 5)),
    ],
)
def test_shares_are_fractions_of_the_training_samples(lengths, shares, counts):
    more = [{}, {}] if shares is None else [{"share": share} for share in shares]
    mix = Mix("train", {"a": section(lengths[0], **more[0]), "b": section(lengths[1], seed=1, **more[1])})
    ids = [mix[i]["targets"]["image_id"] for i in mix.epoch_indices(0)]
    assert (sum(name.startswith("a/") for name in ids), sum(name.startswith("b/") for name in ids)) == counts
    for name, length in zip("ab", lengths, strict=True):
        times = [ids.count(f"{name}/{i + 1}") for i in range(length)]
        assert min(times) >= 1 and max(times) - min(times) <= 1


FEW_LABELS = {"few": section(3, provides=["semantic"], per_batch=2), "many": section(11, 1, provides=[], per_batch=6)}


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_batch_of_each_process_has_a_fixed_number_of_images_of_each_set(world_size):
    mix = Mix("train", FEW_LABELS)
    assert mix.batch_multiple == 8 and len(mix.epoch_indices(0)) == 16  # 4 and 12
    seen = Counter()
    for epoch in range(6):
        ranks = [
            TrainBatches(16, 8, 0, rank, world_size, epoch_indices=mix.epoch_indices, shuffled=mix.shuffled)
            for rank in range(world_size)
        ]
        batches = []
        for rank in ranks:
            rank.set_epoch(epoch)
            batches += list(rank)
        assert len(batches) == 2
        for batch in batches:
            assert len(batch) == 8
            targets = [mix[key.index]["targets"] for key in batch]
            assert ["semantic" in target for target in targets] == [True] * 2 + [False] * 6
            seen.update(target["image_id"] for target in targets)
    assert {seen[f"few/{i}"] for i in (1, 2, 3)} == {8} and len(seen) == 14
    assert {seen[f"many/{i}"] for i in range(1, 12)} <= {6, 7}


def test_images_without_labels_are_for_training_only():
    unlabelled = Mix("train", FEW_LABELS)
    assert unlabelled[4]["targets"].keys() == {"image_id", "focal"} and [*unlabelled.provides] == ["semantic"]
    mix = Mix("val", FEW_LABELS)
    assert len(mix) == 2 and mix.batch_multiple == 1 and mix.shuffled(np.arange(2), np.random.default_rng()) is None
    assert {mix[i]["targets"]["image_id"] for i in range(2)} == {"few/1", "few/2"}
    with pytest.raises(DensevitError, match=r"no set has labels for the split 'val', as all have `provides: \[\]`"):
        Mix("val", {"a": section(provides=[])})


def test_a_batch_size_that_does_not_fit_the_composition_is_an_error():
    values = {"name": "mix", "sets": FEW_LABELS, "batch_size": 12}
    with pytest.raises(DensevitError, match=r"data\.batch_size is 12; 'mix' composes batches of 8 images\. Fix: set"):
        DataSplits(DataSection.model_validate(values), 0, 32).train_loader()
    values |= {"batch_size": 8, "group_by_aspect": True}
    with pytest.raises(DensevitError, match=r"data\.group_by_aspect: 'mix' itself composes the batches"):
        DataSplits(DataSection.model_validate(values), 0, 32).train_loader()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "data.sets is empty"),
        ({"a": section(), "b": section(share=2)}, "data.sets.a.share is missing"),
        ({"a": {"train_length": 3}}, "data.sets.a: name is missing"),
        ({"a": section(share=0)}, "data.sets.a: share should be greater than 0, not 0"),
        ({"a": section(per_batch=1), "b": section()}, "data.sets.b.per_batch is missing"),
        ({"a": section(per_batch=1, share=1)}, "data.sets has both share and per_batch"),
        ({"a": section(provides=["caption"])}, r"data.sets.a.provides is \['caption'\]; this set labels boxes"),
    ],
)
def test_incompatible_data_sets_raise(sets, message):
    with pytest.raises(DensevitError, match=message):
        Mix("train", sets)


def test_the_files_of_each_set_are_checked():
    sets = {name: {"name": f"{test_file_checks.__name__}:{name}"} for name in ("Checked", "Unchecked")}
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        len(DataSplits(DataSection(name="mix", sets=sets), 0, 32).train)
    with pytest.warns(UserWarning, match="1 of 4 images will be left out"):
        assert len(DataSplits(DataSection(name="mix", sets=sets, on_error="skip"), 0, 32).train) == 8
