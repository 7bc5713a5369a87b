"""densevit/training/loop/data_checks.py: batches of a loader of one's own, and splits of another type."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.config import section
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError, DataError
from densevit.model.batch_checks import check_batch
from densevit.targets import RunLengthMasks
from densevit.training.loop.data_checks import check_required_targets, check_splits
from tests.training.loop.test_dense_module import Images, module_of


def changed(**change: Any) -> dict[str, Any]:
    batch: dict[str, Any] = dict(collate([Images(2)[i] for i in range(2)]))
    batch["targets"] = [dict(target) for target in batch["targets"]]
    for key, value in change.items():
        if key in batch:
            batch[key] = value
        elif value is None:
            del batch["targets"][1][key]
        else:
            batch["targets"][1][key] = value
    return batch


def test_a_head_without_its_targets_in_the_data_is_an_error_unless_the_method_needs_no_labels():
    model = densevit.create_model({"name": "swin", "variant": "nano"}, {"far": "dpt"})
    data = densevit.build_data({"name": "scenes", "depth": False, "train_length": 2, "image_size": 32})
    method: Any = SimpleNamespace(needs_labels=False)
    check_splits(data, model, method)
    method.needs_labels = True
    with pytest.raises(ConfigError, match=r"heads\.far \(dpt\) needs depth, but the data set .scenes. labels"):
        check_splits(data, model, method)


def test_the_option_of_the_data_that_reads_lacking_targets_is_named():
    data: Any = SimpleNamespace(provides=["boxes"], section=section("data", {"name": "coco"}, "x"))
    head: Any = SimpleNamespace(required_targets=["masks"])
    with pytest.raises(ConfigError, match=r"needs masks, .* labels boxes only\. Fix: set data\.masks=true\."):
        check_required_targets({"heads.x": head}, data)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], r"is a list; a dict of images, padding_mask and targets .*collate_fn=densevit\.collate"),
        ({"images": 1}, r"lacks padding_mask, targets; found: images\."),
        (changed(images=torch.zeros(2, 3, 4, 4)), r"images is float32 \(2, 3, 4, 4\); uint8 \(B, 3, H, W\)"),
        (changed(padding_mask=torch.zeros(2, 4, 4)), r"padding_mask is float32 \(2, 4, 4\); bool \(2, 4, 4\)"),
        (changed(targets=[{}]), r"targets is a list of 1; a list of 2 dicts"),
        (changed(targets=[1, 2]), r"targets\[0\] is a int; a dict is expected"),
        (changed(size=None), r"targets\[1\] lacks 'size'; .* Fix: set it to \(height, width\) of the image in"),
        (changed(image_id=None), r"targets\[1\] lacks 'image_id'"),
        (changed(size=(4, 5)), r"targets\[1\]: size is \(4, 5\), and the image has \(height, width\) \(4, 4\)"),
        (
            changed(size=torch.tensor([4, 4])),
            r"targets\[1\]: size is tensor\(\[4, 4\]\), a Tensor; a tuple of two ints",
        ),
        (changed(size=(4.0, 4.0)), r"targets\[1\]: size is \(4\.0, 4\.0\), a tuple; a tuple of two ints"),
        (changed(original_size=np.array([9, 9])), r"original_size is array.* Fix: original_size = tuple\(map\(int, or"),
    ],
)
def test_another_batch_is_one_line(batch: Any, message: str) -> None:
    check_batch(changed())
    with pytest.raises(DataError, match=message):
        check_batch(batch)


def test_masks_stay_run_lengths_on_the_way_to_the_device() -> None:
    masks = RunLengthMasks.from_dense(np.eye(32, dtype=bool)[None], (32, 32))
    batch = changed(masks=masks, labels=torch.arange(1))
    moved = module_of().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["targets"][1]["masks"] is masks and moved["targets"][1]["labels"].device.type == "meta"
