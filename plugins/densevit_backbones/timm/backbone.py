"""Any model of timm (Wightman 2019) as a backbone: feature maps of any image size, on the grid that heads expect."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import PluginError
from densevit.interfaces import Backbone
from densevit.layers.checkpointing import update_statistics_once
from densevit.layers.norms import LayerNorm2d
from densevit.layers.tracing import is_exporting
from densevit_backbones.licences import TIMM
from densevit_backbones.timm.building import build, metadata
from densevit_backbones.timm.dry_run import Size, feature_maps, grid
from densevit_backbones.timm.exported_padding import integer_padding
from densevit_backbones.timm.plan import BuildPlan, choose, plan_of
from densevit_backbones.timm.request import Request


class Timm(Backbone):
    """A model of timm: convolutional network, transformer or MLP, with timm's weights if available.

    Any image size. For a model of any size, images are padded with zeros at the right and bottom to the multiple that
    the model needs (1, its patch or stride, or its windows), and maps are cropped to ceil(size / stride). A model of a
    fixed size sets `input_size`: a smaller image is padded to this size; a larger image is resized to it, and its maps
    are resized back. A map whose grid is not ceil(size / stride), such as PiT's 27 cells for 224 pixels, is resampled
    (bilinear). `docs/development/timm.md` lists the properties of each family.

    model: timm's name, optionally with the tag of its weights: "convnext_tiny" or "convnext_tiny.fb_in22k".
    pretrained: loads weights through timm's download and cache.
    image_size: side or (height, width) for which a model of a fixed size is built, rounded up to its coarsest stride.
        None: the size of its weights. Ignored for a model of any size.
    features: indices of the maps (stages of a pyramid, blocks of a plain transformer), from 0; negative indices count
        from the end. None: the deepest map of each stride from 4 on for a pyramid; the last blocks of the four quarters
        for a transformer with a single stride.
    feature_norm: layer norm of each map over its channels. A plain transformer with a final norm, such as DINOv2 and
        DINOv3, applies that norm to each of its maps, as its authors do (DINOv2's `get_intermediate_layers`): raw
        features have a few channels of huge values. All other models, such as pyramids, get one new norm per map, as
        the dense models of Swin and ConvNeXt have: `feature_norms`, which published weights lack. False: raw maps.
    drop_path: stochastic depth of the last block. None: the default of timm's constructor, mostly 0.
    gradient_checkpointing: timm's activation checkpointing of the model.
    in_channels: the number of channels of images. In a model, weights are adapted by the channels' names; a backbone
        that is built alone with `pretrained` has timm's adaptation.
    model_args: further arguments of timm's constructor, such as {output_stride: 16} or {depth: 6}.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        image_size: int | tuple[int, int] | None = None,
        features: tuple[int, ...] | None = None,
        feature_norm: bool = False,
        drop_path: float | None = None,
        gradient_checkpointing: bool = False,
        model_args: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        # Plans are cached by requests, whose values must not change later.
        plan = plan_of(Request(model, size, drop_path, deepcopy(dict(model_args or {}))))
        chosen = choose(model, plan, features)
        self.name = model
        self.model = build(model, pretrained, plan.arguments | ({} if in_channels == 3 else {"in_chans": in_channels}))
        if pretrained:
            weights = str(metadata(self.model).get("license") or TIMM.weights)
            self.licences = {f"timm:{model}": replace(TIMM, weights=weights)}
        if gradient_checkpointing:
            self._checkpoint()
        self._set_maps(plan, chosen, size, feature_norm)

    def _set_maps(self, plan: BuildPlan, chosen: list[int], size: Size | None, feature_norm: bool) -> None:
        """Sets the properties of the chosen maps, drops the layers after them, and adds the norms of the maps."""
        self.mean, self.std = (tuple(metadata(self.model)[key]) for key in ("mean", "std"))
        self.channels, self.strides, self.resampled = zip(*(plan.maps[i] for i in chosen), strict=True)
        self.input_size = None if plan.side_divisors else size or plan.built_size
        self.built_size, self.side_divisors = plan.built_size, plan.side_divisors
        self.final_norm = feature_norm and plan.has_final_norm
        self.indices = list(
            cast(Any, self.model).prune_intermediate_layers(chosen, prune_norm=not self.final_norm, prune_head=True)
        )
        normed = self.channels if feature_norm and not self.final_norm else ()
        self.feature_norms = nn.ModuleList(LayerNorm2d(channels, eps=1e-6) for channels in normed)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        if self.side_divisors is not None:
            height, width = (-(-size // step) * step for size, step in zip((H, W), self.side_divisors, strict=True))
        else:
            height, width = self.built_size
        resized = max(H - height, W - width) > 0
        if resized:
            x = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
        else:
            x = F.pad(images, (0, width - W, 0, height - H))
        with integer_padding() if is_exporting() else nullcontext():
            maps = feature_maps(self.model, x, self.indices, self.final_norm)
        if self.feature_norms:
            maps = [norm(feature) for norm, feature in zip(self.feature_norms, maps, strict=True)]
        covered = (H, W) if resized else (height, width)
        return [_crop(x, stride, covered, (H, W)) for x, stride in zip(maps, self.strides, strict=True)]

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        if hasattr(self.model, "group_matcher"):
            matcher = cast(Any, self.model).group_matcher(coarse=False)
            groups = timm.models.group_parameters(self.model, matcher, return_values=True)
            depths = [groups[depth] for depth in sorted(groups)]
        else:
            parts: list[nn.Module] = []
            for child in self.model.children():
                parts += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
            depths = [list(self.model.parameters(recurse=False)), *(list(part.parameters()) for part in parts)]
        return [*filter(None, [*depths, list(self.feature_norms.parameters())])]

    def extra_repr(self) -> str:
        return self.name

    def _checkpoint(self) -> None:
        try:
            cast(Callable[[bool], None], self.model.set_grad_checkpointing)(True)
        except (AssertionError, AttributeError) as error:
            raise PluginError(
                f"backbone.gradient_checkpointing: timm has none for {self.name!r}. Leave it false."
            ) from error
        update_statistics_once(self.model)


def _crop(feature: Tensor, stride: int, covered: Size, size: Size) -> Tensor:
    """The part of a map that is of the image: ceil(size / stride) cells. covered: the size that the map covers; a map
    of another grid is resampled first."""
    if feature.shape[-2:] != grid(covered, stride):
        feature = F.interpolate(feature, size=grid(covered, stride), mode="bilinear")
    height, width = grid(size, stride)
    return feature[..., :height, :width]
