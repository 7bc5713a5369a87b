"""Every head refuses targets that it cannot learn from."""

from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit import registry
from densevit.errors import DataError
from densevit.model.target_checks import TargetChecks
from densevit.targets.types import TargetTypes, is_geometric
from densevit_workbench.testing.head_checks import CHANNELS, STRIDES
from densevit_workbench.testing.targets import random_targets
from tests.heads.cases import CASES, CLASSES


def wrong_values(value: Any, key: str, target_type: Any, num_classes: int) -> dict[str, Any]:
    """Wrong values of a kind of targets, from a right one: of another shape, type, range, size, and not finite."""
    if isinstance(value, densevit.RunLengthMasks):
        height, width = value.size
        half = densevit.RunLengthMasks.from_dense(np.zeros((len(value), height // 2, width)), (height // 2, width))
        return {"size": half, "type": np.asarray(value), "length": value[:0]}
    wrong: dict[str, Any] = {"type": "text"}
    if target_type.per == "pixel":
        wrong |= {"size": value[..., : value.shape[-2] // 2, :], "shape": value[None]}
        wrong["kind"] = value.long() if value.is_floating_point() else value.float()
    if target_type.per == "object":
        wrong |= {"shape": value[..., None], "length": value[:0], "single": value.sum()}
    if key in ("boxes", "keypoints"):
        wrong["nan"] = value * float("nan")
    if key in ("labels", "semantic", "panoptic"):
        wrong["range"] = torch.full_like(value, num_classes * (1000 if key == "panoptic" else 1))
    if key == "image_class":
        wrong |= {"range": torch.tensor(num_classes), "nan": torch.tensor(float("nan"))}
    return wrong


@pytest.mark.parametrize("name", CASES)
def test_every_head_refuses_values_that_it_cannot_learn_from(name: str) -> None:
    case = CASES[name]
    head = registry.load("heads", case.head)(CHANNELS[: case.levels], STRIDES[: case.levels], CLASSES, **case.options)
    types = TargetTypes.for_head(head)
    checks = TargetChecks("x", types, head.required_targets)
    generator = torch.Generator().manual_seed(0)
    right = [random_targets(head.required_targets, (64, 48), len(CLASSES), generator, image_id=7, types=types)]
    checks.checked(right, set())
    tried = 0
    for key in head.required_targets:
        for kind, value in wrong_values(right[0][key], key, types[key], len(CLASSES)).items():
            if kind == "length" and len({k for k in head.required_targets if types[k].per == "object"}) == 1:
                continue  # nothing to differ from
            with pytest.raises(DataError, match="image 7: "):
                checks.checked([{**right[0], key: value}], set())
            tried += 1
    assert tried or not head.required_targets
    if any(is_geometric(types[key]) for key in head.required_targets):
        for size in (None, (64.0, 48), (0, 48)):
            with pytest.raises(DataError, match="size"):
                without = {key: value for key, value in right[0].items() if key != "size"}
                checks.checked([without if size is None else {**without, "size": size}], set())
