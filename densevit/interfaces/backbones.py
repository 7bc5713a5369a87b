"""The interface of backbones."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from densevit.channels import RGB, Channels
from densevit.constructor_call import Recorded
from densevit.interfaces.licences import Licences

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, Recorded):
    """Computes feature maps from images.

    channels, strides: one per feature, fine to coarse; strides in input pixels.
    mean, std: normalisation per channel, of values in 0 ... 1; the model applies it before the backbone.
    image_channels: the channels of the images, which the model takes over; set where a model is built.
    input_size: (H, W), only for architectures with a fixed input size, to which models pad smaller images.
    size_divisor: models pad heights and widths to multiples of this; None: the coarsest stride.
    black_padding: padding is black before normalisation; False: it has the mean colour, which is 0 afterwards.
    licences: the licences of published weights that the constructor loads, by source.

    Example:
        >>> import torch
        >>> class Pixels(densevit.Backbone):
        ...     channels, strides = (3,), (16,)
        ...     def forward(self, images): return [images[:, :, ::16, ::16]]
        >>> Pixels()(torch.zeros(1, 3, 64, 96))[0].shape
        torch.Size([1, 3, 4, 6])
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_channels: Channels = RGB
    input_size: tuple[int, int] | None = None
    size_divisor: int | None = None
    black_padding: bool = False
    licences: Mapping[str, Licences] = MappingProxyType({})

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) float, any H and W; 3 channels, or the constructor's `in_channels`. Returns features
        (B, C_i, ceil(H / s_i), ceil(W / s_i))."""
        raise NotImplementedError(f"{type(self).__name__} is a Backbone and must implement forward(images).")

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by depth, input first, for layer-wise learning rates. Default: one group per child."""
        groups = [list(child.parameters()) for child in self.children()]
        direct = list(self.parameters(recurse=False))
        return [group for group in (direct, *groups) if group]


class ModuleBackbone(Backbone):
    """A backbone of a module that returns feature maps, such as `timm.create_model(..., features_only=True)`.

    module: returns a feature map, or a list or a dict of them, (B, C_i, ceil(H / s_i), ceil(W / s_i)), fine to coarse.
    channels, strides: empty: those of the module or of its `feature_info`. mean and std are those of timm's
    `pretrained_cfg`.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from torchvision.models.feature_extraction import create_feature_extractor
        >>> net = create_feature_extractor(resnet18(), ["layer3", "layer4"])
        >>> backbone = densevit.interfaces.ModuleBackbone(net, channels=[256, 512], strides=[16, 32])
        >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 96))]
        [(1, 256, 4, 6), (1, 512, 2, 3)]
    """

    def __init__(self, module: Any, channels: Sequence[int] = (), strides: Sequence[int] = ()) -> None:
        super().__init__()
        info, published = getattr(module, "feature_info", None), getattr(module, "pretrained_cfg", None) or {}
        self.module, self.mean, self.std = module, published.get("mean", self.mean), published.get("std", self.std)
        self.channels, self.strides = (
            tuple(channels or (module.channels if info is None else info.channels())),
            tuple(strides or (module.strides if info is None else info.reduction())),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.module(images)
        if isinstance(features, Tensor):
            return [features]
        return [*(features.values() if isinstance(features, Mapping) else features)]
