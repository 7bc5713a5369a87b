"""Loaders: the same samples in any process, readable errors, and resuming where a stream stopped."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.loading.batch_sampler import EvaluationBatches, SampleKey, TrainBatches
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample
from densevit.targets import RunLengthMasks
from tests.counted_dataset import CountedDataset


class Noise(CountedDataset):
    """Images of several sizes; `bad` fails on its third sample as given by `failure`."""

    def __init__(self, length: int = 23, failure: Exception | None = None) -> None:
        self.length, self.failure = length, failure

    def __getitem__(self, index: int) -> Sample:
        if index == 2 and self.failure is not None:
            raise self.failure
        rng = np.random.default_rng(index)
        height, width = (int(side) for side in rng.integers(20, 60, 2))
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width)).astype(np.uint8))
        semantic = torch.zeros((height, width), dtype=torch.uint8)
        semantic[2:10, 1:9] = 1
        targets = {
            "boxes": torch.tensor([[1.0, 2, 9, 10]]),
            "labels": torch.tensor([index]),
            "masks": RunLengthMasks.from_ids(semantic.numpy(), np.array([1])),
            "semantic": semantic,
            "area": torch.tensor([64.0]),
            "iscrowd": torch.tensor([False]),
            "image_id": f"image {index}",
        }
        return {"image": image, "targets": targets}


def test_values_of_evenly_spaced_samples_are_checked():
    read = []

    class Recorded(Noise):
        def __getitem__(self, index: int) -> Sample:
            read.append(index)
            sample = super().__getitem__(index)
            sample["targets"]["boxes"] /= index != 22  # infinite in the last
            return sample

    dataset = prepared(Recorded(), train=False)
    dataset.check_values(1)
    with pytest.raises(DataError, match="image 22"):
        dataset.check_values(3)
    assert read == [0, 0, 11, 22]


def prepared(dataset: Dataset, train: bool, size: int = 48) -> TransformedDataset:
    transforms = build_transforms(DataSection(name="scenes", image_size=size))
    return TransformedDataset(dataset, transforms[0 if train else 1], train)


def train_loader(num_workers: int, failure: Exception | None = None, size: int = 48) -> Loader:
    return Loader(prepared(Noise(failure=failure), True, size), TrainBatches(23, 4, seed=5), 16, num_workers)


def val_loader(num_workers: int, failure: Exception | None = None, size: int = 48) -> Loader:
    return Loader(prepared(Noise(failure=failure), False, size), EvaluationBatches(23, None, 4), 16, num_workers)


def same(one: Any, other: Any) -> bool:
    """Recursive equality; tensors are bit-identical and of the same type."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, RunLengthMasks):
        return isinstance(other, RunLengthMasks) and one.size == other.size and one.codes() == other.codes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_results_do_not_depend_on_workers():
    """Large tensors, as the images of four samples, are passed otherwise than small ones."""
    for make, num_workers in ((train_loader, 2), (val_loader, 1)):
        one, other = (list(make(count, size=96)) for count in (num_workers, 0))
        assert same(one, other) and (one[0]["images"].nbytes > 2**16) == (make is train_loader)
    dataset = train_loader(0).dataset
    spawned = pickle.loads(pickle.dumps(dataset))  # as on Windows and macOS
    assert same(spawned[SampleKey(3, 0)], dataset[SampleKey(3, 0)])


@pytest.mark.skipif(not hasattr(os, "nice"), reason="Windows has no such priorities")
def test_workers_have_a_lower_priority_than_the_training():
    class Priorities(Noise):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return {**sample, "targets": {**sample["targets"], "image_id": os.nice(0)}}

    [here], [worker] = (
        {target["image_id"] for batch in loader for target in batch["targets"]}
        for loader in (Loader(prepared(Priorities(), True), TrainBatches(23, 4, seed=5), 16, n) for n in (0, 1))
    )
    assert here < worker


def test_evaluation_returns_the_original_targets():
    batches = list(val_loader(0))
    assert len(batches) == 23
    for index, batch in enumerate(batches):
        (targets,), original = batch["targets"], Noise()[index]
        assert same(targets["truth"], original["targets"])
        assert targets["original_size"] == tuple(original["image"].shape[1:])
        assert max(targets["size"]) == 48 and batch["images"].shape[2:] in ((48, 48), (48, 32), (32, 48), (16, 48))
    assert "truth" not in prepared(Noise(), train=False)[SampleKey(1, 0, repeat=1)]["targets"]


class Unlike(Noise):
    """Noise whose images another function makes of uint8 ones."""

    def __init__(self, make: Callable[[torch.Tensor], Any], **targets: Any) -> None:
        super().__init__()
        self.make, self.targets = make, targets

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return {"image": self.make(sample["image"]), "targets": {**sample["targets"], **self.targets}}


WRONG_IMAGES: list[tuple[Callable[[torch.Tensor], Any], str]] = [
    (lambda image: image / 255, r"is float32 \(3, \d+, \d+\).*Fix: \(image \* 255\)\.round\(\)\.to\(torch\.uint8\)"),
    (lambda image: image.long(), r"is int64.*Fix: convert it, or let the data set's `channels`"),
    (lambda image: image[:1], r"is uint8 \(1.*Fix: convert it, or let the data set's `channels`"),
    (lambda image: image.permute(1, 2, 0), r"is uint8 \(\d+, \d+, 3\).*Fix: image\.permute\(2, 0, 1\)"),
    (lambda image: image.numpy(), r"is a ndarray.*Fix: torch\.from_numpy"),
]


def test_an_image_that_is_not_uint8_rgb_is_an_error():
    origin = rf"Sample 5 of {__name__}\.Unlike \(image 'image 5'\): the image "
    for make, message in WRONG_IMAGES:
        with pytest.raises(DataError, match=origin + message):
            prepared(Unlike(make), train=True)[SampleKey(5, 0)]
    with pytest.raises(DataError, match=origin + message):
        prepared(Unlike(make), train=False)[SampleKey(5, 0)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_after_consumed_not_prefetched_batches(num_workers):
    whole = train_loader(0)
    whole.set_epoch(1)
    expected = list(whole)
    interrupted = train_loader(num_workers)
    interrupted.set_epoch(1)
    stream = iter(interrupted)
    for _ in range(2):
        next(stream)
    state = interrupted.state_dict()
    assert state == {"epoch": 1, "position": 2, "length": 5, "seed": 5}
    resumed = train_loader(num_workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert same(list(resumed), expected[2:])
    assert len(resumed) == 5
    assert same(list(resumed), expected), "the next iteration begins at the epoch's first batch"


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.integration)])
def test_sample_error_keeps_its_message_and_others_name_the_line(num_workers):
    failure = DataError("photos/7.jpg cannot be read.\nTry another one: it ends early.")
    for loader in (train_loader(num_workers, failure), val_loader(num_workers, failure)):
        with pytest.raises(DataError) as caught:
            list(loader)
        assert str(caught.value) == str(failure)
    with pytest.raises(DataError, match=r"Sample 2 of .*Noise failed: KeyError: 'color' \(.*loader\.py, line \d+"):
        list(val_loader(num_workers, KeyError("color")))
