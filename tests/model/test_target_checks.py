"""Targets that a head cannot learn from are named, wherever their values are."""

from typing import Any

import pytest
import torch

from densevit.errors import DataError
from densevit.losses.distributed import with_cpu_copy
from densevit.model.target_checks import TargetChecks
from densevit.targets.types import TargetTypes

OBJECTS = TargetTypes(num_classes={"detection": 2})


def objects(**changes: Any) -> list[dict[str, Any]]:
    """Two images, of which the second has the changes."""
    target = {"image_id": 7, "size": (64, 64), "boxes": torch.tensor([[8.0, 8, 24, 40]]), "labels": torch.tensor([1])}
    return [{**target, "image_id": 6}, {**target, **changes}]


def test_values_get_the_types_of_losses() -> None:
    checks = TargetChecks("x", OBJECTS, ("boxes", "labels"))
    changes = {"boxes": torch.tensor([[8, 8, 24, 40]]), "labels": torch.tensor([1], dtype=torch.uint8)}
    expected, actual = checks.checked(objects(**changes), set())
    for key in ("boxes", "labels"):
        assert actual[key].dtype == expected[key].dtype and torch.equal(actual[key], expected[key])


def test_values_on_another_device_are_read_in_the_first_batch_of_their_kind() -> None:
    """Reading a tensor of the device "meta" would raise; its shape is known."""
    checks = TargetChecks("x", OBJECTS, ("boxes", "labels"))
    on_meta = [{**t, "boxes": t["boxes"].to("meta"), "labels": t["labels"].to("meta")} for t in objects()]
    checks.checked(on_meta, set())
    with pytest.raises(DataError, match="image 7: targets differ in length: boxes 1, labels 3"):
        checks.checked([on_meta[0], {**on_meta[1], "labels": torch.zeros(3, dtype=torch.long, device="meta")}], set())
    copied = [{**t, "labels": with_cpu_copy(t["labels"].to("meta"), torch.tensor([5]))} for t in objects()]
    with pytest.raises(DataError, match="image 6: labels ranges from 5 to 5; expected 0 to 1"):
        checks.checked(copied, set())  # the copy on the CPU is read in each batch


def test_each_new_key_is_checked_as_a_first_one() -> None:
    checks = TargetChecks("x", OBJECTS, ("boxes", "labels"))
    seen: set[Any] = set()
    checks.checked([{"size": (64, 64), "labels": torch.tensor([1])}], seen)
    with pytest.raises(DataError, match="boxes all lie within 0"):
        checks.checked(objects(boxes=torch.tensor([[0.1, 0.1, 0.5, 0.9]]))[1:], seen)
