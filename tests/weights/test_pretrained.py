"""Pretrained weights in a config: heads of another backbone, and files that do not fit."""

import pytest
import torch
from torch import nn

from densevit.interfaces import Neck
from densevit.weights.model_file import save
from tests.weights.loading import SCORES, Small, loaded, model_of


class Wide(Small):
    """Twelve channels in place of four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(3, 12, 4, 4), nn.GroupNorm(2, 12), (12,)


class Widened(Neck):
    """A convolution of each feature."""

    def __init__(self, channels, strides) -> None:
        super().__init__([6] * len(channels), strides)
        self.convs = nn.ModuleList(nn.Conv2d(width, 6, 1) for width in channels)


@pytest.mark.parametrize("neck", [None, {"name": f"{__name__}:Widened"}])
def test_a_head_of_another_backbone_is_loaded_but_for_its_projections(tmp_path, neck):
    head = {**SCORES, "neck": neck}
    source = model_of(heads={"boxes": head})
    save(source, tmp_path / "model.safetensors")
    model, _, reports = loaded({"name": f"{__name__}:Wide"}, {"boxes": {**head, "weights": str(tmp_path)}})
    kept = {"convs.0.weight"} if neck else {"hidden.weight"}
    assert {name for report in reports for name in report.ignored_keys} == kept
    for part in ("heads", "necks"):
        for key, value in dict(getattr(source, part).items()).get("boxes", nn.Module()).state_dict().items():
            assert key in kept or torch.equal(getattr(model, part)["boxes"].state_dict()[key], value)
