"""Heads of a protocol, trained on features of a frozen backbone that are computed once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.config import Config
from densevit.data.data_splits import DataSplits
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, Batch, LossContext
from densevit.model import DenseModel
from densevit.training.loop.budget import Budget
from densevit.training.loop.device_transfer import on_device
from densevit.training.loop.lr_schedule import Schedule
from densevit.training.loop.optim import learning_rate, optimizer_of
from densevit_probes.probe import EncodedImage

_UNSUPPORTED = {"precision": "32", "accumulate": 1, "ema": None, "patience": None}  # keys of `trainer`


def trained(config: Config, name: str, backbone: Backbone | None) -> DenseModel:
    """The model of a run, which needs other images in each pass, or changes the backbone."""
    from densevit.training.run.fit import fit  # late: it imports Lightning

    if backbone is not None:
        raise ConfigError("this protocol trains a model. Fix: name the backbone as module:Class, or by a section file.")
    return fit(config, name=name).model


def train_heads(
    model: DenseModel,
    images: Mapping[int, EncodedImage],
    data: DataSplits,
    config: Config,
) -> None:
    """Trains the heads of a model with the optimiser, the schedule, the budget and the order of images of its config.

    images: the encoded images by index of the data set. Images of a batch are padded to its largest, and their maps
    repeat the last cell. Raises ConfigError for keys of `trainer` without effect.
    """
    ignored = [key for key, default in _UNSUPPORTED.items() if getattr(config.trainer, key) != default]
    if ignored:
        raise ConfigError(
            f"trainer.{ignored[0]} has no effect on heads on computed features, which are fp32. Fix: leave it out."
        )
    size, device = config.data.batch_size, model.mean.device
    budget = Budget.of(config.trainer, data.batches_per_epoch(), size, 1)
    optimizer = optimizer_of(model, config.optim, learning_rate(config.optim, size))
    schedule = Schedule(optimizer, config.optim, budget)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    model.train()
    for step, indices in enumerate(islice(_batches(data), budget.steps)):
        batch = [images[index] for index in indices]
        maps, placed = _together(batch, device)
        padding_mask, targets = placed["padding_mask"], placed["targets"]
        context = LossContext(step=step, raise_on_non_finite=False)
        with torch.enable_grad():
            outputs = {}
            for name, head in model.heads.items():
                head.set_progress(step / budget.steps)
                inputs = model.head_inputs(name, maps, padding_mask, placed["images"])
                outputs[name] = head(inputs, padding_mask, targets)
            losses = model.losses_of(outputs, targets, context)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
        if config.trainer.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, config.trainer.clip_grad_norm)
        optimizer.step()
        schedule.step()
    model.eval()


def _batches(data: DataSplits) -> Iterator[list[int]]:
    """The indices of the batches of a run, without end."""
    loader = data.train_loader()
    for epoch in count():
        loader.set_epoch(epoch)
        for keys in loader.batch_sampler:  # type: ignore[union-attr]  # of `Loader`, it is never None
            yield [key.index for key in keys]


def _together(images: Sequence[EncodedImage], device: torch.device) -> tuple[list[Tensor], Batch]:
    """Maps (B, C_i, h_i, w_i) and the batch on a device, without images if no neck needs them."""
    maps = []
    for level in zip(*(image.maps for image in images), strict=True):
        height, width = (max(x.shape[axis] for x in level) for axis in (1, 2))
        sides = [(0, width - x.shape[2], 0, height - x.shape[1]) for x in level]
        padded = [F.pad(x, side, mode="replicate") if any(side) else x for x, side in zip(level, sides, strict=True)]
        maps.append(torch.stack(padded).to(device))
    height, width = (max(image.canvas[axis] for image in images) for axis in (0, 1))
    padding_mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for mask, image in zip(padding_mask, images, strict=True):
        mask[: image.target["size"][0], : image.target["size"][1]] = False
    pixels = maps[-1].new_empty(0)
    if (first := images[0].image) is not None:
        pixels = first.new_zeros(len(images), len(first), height, width)
        for canvas, image in zip(pixels, images, strict=True):
            canvas[:, : image.canvas[0], : image.canvas[1]] = image.image
    placed: Batch = {"images": pixels, "padding_mask": padding_mask, "targets": [image.target for image in images]}
    return maps, on_device(placed, device)
