"""The dense model: normalised pixels, losses and their weights, frozen parts, necks, and building from a config."""

import math

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit import config as configs
from densevit.interfaces import Neck
from densevit.model import DenseModel
from densevit_backbones.resnet import ResNet
from tests.built_models import build_model
from tests.model.small_models import CLASSES, Averaged, Mean, of_heads

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


def batch_of(*sizes: tuple[int, int]) -> dict:
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for own, (h, w) in zip(mask, sizes, strict=True):
        own[:h, :w] = False
    images = torch.randint(0, 256, (len(sizes), 3, height, width), dtype=torch.uint8)
    targets = [{"size": size, "original_size": size, "image_id": i} for i, size in enumerate(sizes)]
    return {"images": images, "padding_mask": mask, "targets": targets}


# ---- normalisation ----


def test_padding_is_exactly_zero_after_normalisation():
    model = of_heads(Averaged(), detection=Mean)
    batch = batch_of((3, 5), (4, 2))
    images = batch["images"].clone()
    pixels = model.normalise(images, batch["padding_mask"])
    padding = batch["padding_mask"][:, None].expand_as(pixels)
    assert pixels[padding].eq(0).all()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ([0.5, 0.25, 0.0], [0.5, 0.25, 2.0]))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(pixels[~padding], expected[~padding])
    assert torch.equal(images, batch["images"])


# ---- heads, losses, modes ----


def test_losses_are_named_by_head_and_weighted():
    model = of_heads(Averaged(), a=Mean, b=Mean)
    model.loss_weights["b"] = 0.25
    outputs = {"a": {"logits": torch.full((2, 3), 4.0)}, "b": {"logits": torch.full((2, 3), 8.0)}}
    losses = model.losses_of(outputs, [{}, {}])
    assert {name: value.item() for name, value in losses.items()} == {
        "a/mean": 4.0,
        "a/constant": 2.0,
        "b/mean": 2.0,
        "b/constant": 0.5,
    }


def test_learned_weight_is_the_inverse_variance_with_log_term():
    model = DenseModel(
        Averaged(), {"a": Mean((3,), (8,), CLASSES), "b": Mean((3,), (8,), CLASSES)}, loss_weights={"b": "learned"}
    )
    nn.init.constant_(model.log_variances["b"], math.log(4))
    outputs = {name: {"logits": torch.full((2, 3), 8.0)} for name in "ab"}
    losses = model.losses_of(outputs, [{"labels": torch.zeros(0)}, {}])
    assert losses["a/mean"] == 8 and "a/log_variance" not in losses
    torch.testing.assert_close(losses["b/mean"], torch.tensor(2.0))
    torch.testing.assert_close(losses["b/log_variance"], torch.tensor(math.log(2)))
    sum(losses.values()).backward()  # of 10 exp(-s) + s / 2 with s = log 4: -10 / 4 + 1 / 2
    torch.testing.assert_close(model.log_variances["b"].grad, torch.tensor(-2.0))
    losses = model.losses_of(outputs, [{"depth": torch.zeros(2, 2)}])  # of images without labels
    model.log_variances["b"].grad = None
    losses["b/log_variance"].backward()
    assert losses["b/log_variance"] == 0 and model.log_variances["b"].grad == 0


# ---- building ----


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
    assert model.loss_weights == {"plain": 0.5, "kept": 1.0}
    assert model.classes == {"plain": CLASSES, "kept": CLASSES}
    assert model.sections == config
    assert model.size_divisor == 32
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["heads.plain.gain"]
    assert model.training
    assert not any(part.training for part in (model.backbone, kept, neck))  # frozen initially


def test_an_unknown_option_of_a_head_is_refused():
    heads = {"detection": {"name": f"{MODELS}:Mean", "gian": 2.0}}
    with pytest.raises(densevit.DensevitError, match=r"heads\.detection\.gian.*'gain'"):
        build_model(config_of(heads=heads), {"detection": CLASSES})
    assert build_model(config_of(), {"segmentation": CLASSES}).classes == {"detection": ()}  # of another task
