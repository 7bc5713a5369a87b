"""Parts of a model are built from sections of a config, by plugin name."""

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit import config as configs
from densevit.interfaces import Neck
from densevit_backbones.resnet import ResNet
from tests.built_models import build_model
from tests.model.small_models import CLASSES

MODELS = "tests.model.small_models"


class Doubling(Neck):
    """A neck that returns the coarsest feature twice."""

    def __init__(self, channels, strides, offset: float = 0.0) -> None:
        super().__init__(2 * tuple(channels[-1:]), 2 * tuple(strides[-1:]))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        self.padding_mask = padding_mask
        return 2 * [features[-1] + self.offset]


def config_of(**sections):
    return configs.from_mapping(
        {
            "backbone": {"name": f"{MODELS}:Averaged"},
            "heads": {"detection": {"name": f"{MODELS}:Mean"}},
            "data": {"name": "scenes", "image_size": 64},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )


def test_build_model_follows_the_config():
    doubling = f"{__name__}:Doubling"
    config = config_of(
        backbone={"name": "resnet", "depth": 18, "norm": "group", "freeze": True},
        heads={
            "plain": {"name": f"{MODELS}:Mean", "gain": 3.0, "loss_weight": 0.5},
            "kept": {"name": f"{MODELS}:Mean", "freeze": True, "neck": {"name": doubling, "offset": 2.0}},
        },
    )
    model = build_model(config, {"detection": CLASSES, "segmentation": CLASSES[:1]})
    plain, kept, neck = model.heads["plain"], model.heads["kept"], model.necks["kept"]
    assert isinstance(model.backbone, ResNet)
    assert (plain.gain.item(), kept.gain.item(), neck.offset.item()) == (3.0, 1.0, 2.0)
    assert (plain.channels, plain.strides) == ((64, 128, 256, 512), (4, 8, 16, 32))
    assert (kept.channels, kept.strides) == ((512, 512), (32, 32))
    assert (model.loss_weights, model.classes) == ({"plain": 0.5, "kept": 1.0}, {"plain": CLASSES, "kept": CLASSES})
    assert (model.sections, model.size_divisor) == (config, 32)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["heads.plain.gain"]
    assert model.training and not any(part.training for part in (model.backbone, kept, neck))  # frozen initially


def test_an_unknown_option_of_a_head_is_refused():
    heads = {"detection": {"name": f"{MODELS}:Mean", "gian": 2.0}}
    with pytest.raises(densevit.DensevitError, match=r"heads\.detection\.gian.*'gain'"):
        build_model(config_of(heads=heads), {"detection": CLASSES})
    assert build_model(config_of(), {"segmentation": CLASSES}).classes == {"detection": ()}  # of another task
