"""The ground truth of a validation batch, without repeated images."""

import math
from typing import Any

import pytorch_lightning as lightning
import torch
from torch.utils.data.distributed import DistributedSampler

from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.errors import DataError
from densevit.interfaces import Batch, Dataset, Targets
from densevit.model import DenseModel


def truths(batch: Batch, loader: Any, seen: int, labels: bool) -> list[tuple[int, Targets] | None]:
    """The data set index, or else the position in the loader, and the ground truth of each image of a validation batch,
    with the size in original pixels as `size` and `original_size`; None for a repeated image, which is not evaluated.

    In densevit's loaders, repeated images have no `truth`. In a loader with a `DistributedSampler`, which Lightning
    adds to every DataLoader, they are the images appended to give all processes the same number.

    loader: the batch's loader. seen: the number of images that this process received from it before. labels: False if
    only the image_id is needed. Raises DataError if a target of a user's loader has no `truth` and is not in original
    pixels.
    """
    if isinstance(loader, Loader):
        return [(t["dataset_index"], _truth(t)) if "truth" in t else None for t in batch["targets"]]
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    rank, processes, length = 0, 1, math.inf
    if isinstance(sampler, DistributedSampler):  # process r of R has the positions r, r + R, r + 2 R, ...
        rank, processes, length = sampler.rank, sampler.num_replicas, len(sampler.dataset)  # type: ignore[arg-type]  # has a length
    positions = (rank + (seen + index) * processes for index in range(len(batch["targets"])))
    return [
        (position, _truth(target) if labels else target) if position < length else None
        for position, target in zip(positions, batch["targets"], strict=True)
    ]


def _truth(target: Targets) -> Targets:
    size, original = tuple(map(int, target["size"])), tuple(map(int, target["original_size"]))
    if "truth" in target:
        return {**target["truth"], "size": original, "original_size": original}
    if size != original:
        raise DataError(
            f"Image {target['image_id']!r}: its validation target has no `truth`, and its size {size} is not the "
            f"original_size {original}; evaluators compare in original pixels. Fix: add the labels in original pixels "
            "as target['truth'] before the image is resized."
        )
    labels = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in target.items()}
    return {**labels, "size": original, "original_size": original}


def validation_loaders(trainer: lightning.Trainer) -> list[Any]:
    """The current validation loaders."""
    loop = trainer.validate_loop if trainer.state.fn == "validate" else trainer.fit_loop.epoch_loop.val_loop
    assert loop._combined_loader is not None
    return loop._combined_loader.flattened


def validation_dataset(trainer: lightning.Trainer, model: DenseModel) -> Dataset:
    """The data set of the first validation loader; in place of a data set that is not a densevit `Dataset`, an empty
    one with the model's classes and metric depth."""
    dataset = getattr(validation_loaders(trainer)[0], "dataset", None)
    dataset = dataset.dataset if isinstance(dataset, TransformedDataset) else dataset
    if isinstance(dataset, Dataset):
        return dataset
    unknown = Dataset()
    unknown.classes = {str(head.task): model.classes[name] for name, head in model.heads.items()}
    unknown.provides = ()
    return unknown
