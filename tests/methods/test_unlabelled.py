"""Maps that label nothing are missing labels: for no training method are they ground truth."""

import copy
from typing import Any

import pytest
import torch

from densevit.interfaces import LossContext
from densevit.targets.types import TargetTypes
from densevit.training.loop.method import Supervised
from densevit_methods.pseudo_targets import missing_labels
from tests.methods.test_mean_teacher import built

TYPES = TargetTypes()
SIZE = (40, 64)


def values() -> list[Any]:
    return [
        pytest.param(key, x, id=f"{key} {x.flat[0]}")
        for key in ("semantic", "depth")
        for x in TYPES[key].unlabelled(SIZE)
    ]


@pytest.fixture(scope="module")
def made() -> Any:
    return built("setr", "dpt", pixel_threshold=0.0)


@pytest.mark.parametrize(("key", "value"), values())
@pytest.mark.parametrize("name", ["mean_teacher", "supervised"])
def test_a_map_that_labels_nothing_is_a_missing_label(name: str, key: str, value: Any, made: Any) -> None:
    """Losses and gradients are those of the batch without the key."""
    model, mean_teacher, batch = made
    method = mean_teacher if name == "mean_teacher" else Supervised(model)
    model.eval()
    found = []
    for label in (torch.from_numpy(value), None):
        targets = copy.deepcopy(batch["targets"])
        for target in targets:
            target.pop(key, None)
            if label is not None:
                target[key] = label[: target["size"][0], : target["size"][1]]
        losses = method.training_step(model, {**batch, "targets": targets}, LossContext(step=5))
        model.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        found.append(({k: x.detach() for k, x in losses.items()}, gradients))
    torch.testing.assert_close(found[0], found[1])
    if name == "mean_teacher":
        of_key = "setr" if key == "semantic" else "dpt"
        assert any(x > 0 for k, x in found[0][0].items() if k.startswith(f"unlabelled/{of_key}/"))


def test_heads_whose_labels_are_missing(made: Any) -> None:
    model, _, _ = made
    semantic, depth = torch.full(SIZE, 255, dtype=torch.uint8), torch.full(SIZE, torch.nan)
    assert missing_labels(model.heads, {"semantic": semantic, "depth": depth}) == ["setr", "dpt"]
    semantic[3, 4], depth[1, 2] = 0, 2.5
    assert missing_labels(model.heads, {"semantic": semantic, "depth": depth}) == []
    assert missing_labels(model.heads, {"depth": depth}) == ["setr"]
