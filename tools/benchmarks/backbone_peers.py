"""Equal backbones from densevit, timm, torchvision and transformers, timed by `backbones.py`.

Each peer returns the output of its library for dense prediction: maps after its stages, or its last state.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

Size = tuple[int, int]


class Case(NamedTuple):
    """A model: densevit's plugin with its options, and for each peer a function that builds it for an image size."""

    plugin: str
    options: dict[str, Any]
    peers: dict[str, Callable[[Size], nn.Module]]


class TorchvisionStages(nn.Module):
    """torchvision's Swin or ResNet; returns the maps after its four stages."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class TorchvisionViT(nn.Module):
    """torchvision's ViT; returns its tokens after the last block."""

    def __init__(self, model: torchvision.models.VisionTransformer) -> None:
        super().__init__()
        self.model = model
        self.model.heads = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        tokens = self.model._process_input(images)
        tokens = torch.cat([self.model.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return [self.model.encoder(tokens)]


class TransformersMaps(nn.Module):
    """A model of transformers; returns its last state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.model(images).last_hidden_state]


class Last(nn.Module):
    """A timm model without its pooling and classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        model.reset_classifier(0, "")  # type: ignore[operator]  # timm's models have it

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.model.forward_features(images)]  # type: ignore[operator]  # as above


def _timm(name: str, sized: bool = True) -> Callable[[Size], nn.Module]:
    def make(size: Size) -> nn.Module:
        options: dict[str, Any] = {"img_size": size} if sized else {}
        return Last(timm.create_model(name, **options))

    return make


def _torchvision_swin(size: Size) -> nn.Module:
    parts = torchvision.models.SwinTransformer(
        [4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.0
    )
    layers = parts.features
    return TorchvisionStages([layers[:2], layers[2:4], layers[4:6], layers[6:]])


def _torchvision_resnet(size: Size) -> nn.Module:
    model = torchvision.models.resnet50()
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1)
    return TorchvisionStages([stem, model.layer2, model.layer3, model.layer4])


def _torchvision_vit(width: int, heads: int) -> Callable[[Size], nn.Module]:
    return lambda size: TorchvisionViT(torchvision.models.VisionTransformer(size[0], 16, 12, heads, width, 4 * width))


def _transformers_vit(width: int, heads: int) -> Callable[[Size], nn.Module]:
    def make(size: Size) -> nn.Module:
        config = transformers.ViTConfig(
            hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, image_size=size[0]
        )
        return TransformersMaps(transformers.ViTModel(config, add_pooling_layer=False))

    return make


def _transformers_swin(size: Size) -> nn.Module:
    config = transformers.SwinConfig(drop_path_rate=0.0, image_size=size)
    return TransformersMaps(transformers.SwinModel(config, add_pooling_layer=False))


def _transformers_resnet(size: Size) -> nn.Module:
    return TransformersMaps(transformers.ResNetModel(transformers.ResNetConfig()))


CASES = {
    "swin-tiny": Case(
        "swin",
        {"variant": "tiny", "drop_path": 0.0},
        {
            "timm": _timm("swin_tiny_patch4_window7_224"),
            "torchvision": _torchvision_swin,
            "transformers": _transformers_swin,
        },
    ),
    "vit-small": Case(
        "vit",
        {"variant": "small", "drop_path": 0.0},
        {
            "timm": _timm("vit_small_patch16_224"),
            "torchvision": _torchvision_vit(384, 6),
            "transformers": _transformers_vit(384, 6),
        },
    ),
    "vit-base": Case(
        "vit",
        {"variant": "base", "drop_path": 0.0},
        {
            "timm": _timm("vit_base_patch16_224"),
            "torchvision": _torchvision_vit(768, 12),
            "transformers": _transformers_vit(768, 12),
        },
    ),
    "vit-large": Case("vit", {"variant": "large", "drop_path": 0.0}, {"timm": _timm("vit_large_patch16_224")}),
    "mvitv2-tiny": Case("mvit", {"variant": "tiny", "drop_path": 0.0}, {"timm": _timm("mvitv2_tiny")}),
    "resnet-50": Case(
        "resnet",
        {"depth": 50},
        {
            "timm": _timm("resnet50", sized=False),
            "torchvision": _torchvision_resnet,
            "transformers": _transformers_resnet,
        },
    ),
}
