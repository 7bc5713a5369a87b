"""Moves batches to a device. Imports no Lightning."""

from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Batch
from densevit.losses.distributed import with_cpu_copy


def on_device(batch: Batch, device: torch.device, layout: torch.memory_format = torch.contiguous_format) -> Batch:
    """A batch with images, padding mask and targets on a device. Masks, which losses read as run lengths, and `truth`,
    for the evaluators, stay on the CPU; so do the tensors that `cpu_copy_of` returns for those of targets. layout: the
    memory format of the images."""

    def moved(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    def copied(value: Any) -> Any:
        return with_cpu_copy(moved(value), value) if isinstance(value, Tensor) else value

    on_cpu = ("truth", "size", "original_size")
    targets = [{key: x if key in on_cpu else copied(x) for key, x in target.items()} for target in batch["targets"]]
    images = moved(batch["images"]).contiguous(memory_format=layout)
    moved_batch: Batch = {**batch, "images": images, "padding_mask": moved(batch["padding_mask"]), "targets": targets}
    if "other_views" in batch:
        moved_batch["other_views"] = [on_device(view, device, layout) for view in batch["other_views"]]
    return moved_batch
