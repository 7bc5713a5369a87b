"""Weights of other libraries in our backbones, and their features after our norms."""

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layouts import find
from densevit_checkpoints.key_mapping import canonical, translate
from densevit_checkpoints.recognition import recognise


def load(backbone: Backbone, state: dict[str, Tensor], layout: str | None = None) -> None:
    """Loads a reference's tensors by their layout; every tensor of ours but the norms of features must be set."""
    known = recognise(state) if layout is None else find(layout)
    translated = translate(canonical(state, known), known)
    keys = backbone.load_state_dict(translated.tensors, strict=False)
    assert translated.unknown == translated.errors == keys.unexpected_keys == []
    assert all(key.startswith("feature_norms.") for key in keys.missing_keys)


def normed(norms: nn.ModuleList, features: list[Tensor], eps: float = 1e-5) -> list[Tensor]:
    """A reference's raw features (B, C, H, W) after our norms."""
    maps = [
        F.layer_norm(x.movedim(1, 3), x.shape[1:2], norm.weight, norm.bias, eps)
        for x, norm in zip(features, norms, strict=True)
    ]
    return [x.movedim(3, 1) for x in maps]


def stage_maps(resnet: nn.Module, images: Tensor) -> list[Tensor]:
    """What the four stages of torchvision's or timm's ResNet return."""
    maps: list[Tensor] = []
    stages = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    hooks = [stage.register_forward_hook(lambda module, args, x: maps.append(x)) for stage in stages]
    resnet(images)
    for hook in hooks:
        hook.remove()
    return maps
