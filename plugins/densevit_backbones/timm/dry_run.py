"""Models of timm on the meta device, which computes shapes without values: the shapes of their maps at any size."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from densevit_backbones.timm.building import build, metadata

Size = tuple[int, int]


class DryRun:
    """A model of timm on the meta device, without memory, in evaluation mode; built when it is first used.

    arguments: options of timm.create_model.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self.arguments = name, dict(arguments)

    def changed(self, arguments: dict[str, Any]) -> "DryRun":
        """The model with further arguments."""
        return DryRun(self.name, self.arguments | arguments) if arguments else self

    @cached_property
    def model(self) -> nn.Module:
        with torch.device("meta"), _ShapesOnly():
            return build(self.name, False, self.arguments).eval()

    @cached_property
    def native_size(self) -> Size:
        """The image size of timm's weights."""
        return cast(Size, tuple(metadata(self.model)["input_size"][-2:]))

    @cached_property
    def native_maps(self) -> list[Tensor]:
        return self.maps(self.native_size)

    @torch.no_grad()
    def maps(self, size: Size, norm: bool = False) -> list[Tensor]:
        """All maps, (2, C, h, w) each, on the meta device."""
        with _ShapesOnly():
            return feature_maps(self.model, torch.empty(2, 3, *size, device="meta"), None, norm)

    def fits(self, size: Size, strides: Sequence[int] | None = None, norm: bool = False) -> bool:
        """Whether the model runs with a size and, if strides are set, its maps have the grids of these strides."""
        _ = self.model  # a model that cannot be built is an error
        try:
            maps = self.maps(size, norm)
        except (AssertionError, RuntimeError, TypeError, ValueError, IndexError, ZeroDivisionError):
            return False
        return strides is None or all(tuple(x.shape[-2:]) == grid(size, s) for x, s in zip(maps, strides, strict=True))


def feature_maps(model: nn.Module, images: Tensor, indices: Sequence[int] | None, norm: bool) -> list[Tensor]:
    """The model's maps, (B, C, h, w) each; timm converts NHWC maps and tokens."""
    return cast(Callable[..., list[Tensor]], model.forward_intermediates)(
        images, indices=indices, norm=norm, output_fmt="NCHW", intermediates_only=True
    )


def grid(size: Size, stride: int) -> Size:
    """The cells of a map, ceil(size / stride)."""
    return (-(-size[0] // stride), -(-size[1] // stride))


class _ShapesOnly(TorchFunctionMode):
    """Skips operations that change no shape: on the meta device, initialisation, activations and norms cost more than
    all other operations together."""

    _IN_PLACE = frozenset(
        getattr(Tensor, f"{name}_") for name in ("add", "clamp", "erfinv", "mul", "normal", "uniform")
    )
    _ACTIVATIONS = frozenset(
        (
            F.gelu,
            F.hardswish,
            F.hardtanh,
            F.relu,
            F.relu6,
            F.silu,
            F.softmax,
            Tensor.sigmoid,
            Tensor.softmax,
            torch.sigmoid,
        )
    )

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self._IN_PLACE:
            unchanged = not any(isinstance(value, Tensor) for value in args[1:])
        elif function is F.batch_norm:
            unchanged = args[1] is not None and len(args[1]) == args[0].shape[1]
        elif function is F.layer_norm:
            unchanged = tuple(args[1]) == args[0].shape[-len(args[1]) :]
        else:
            unchanged = function in self._ACTIVATIONS
        return args[0] if unchanged else function(*args, **(kwargs or {}))
