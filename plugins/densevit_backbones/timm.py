"""Any model of timm (Wightman 2019) as a backbone: feature maps of any image size, on the grid that heads expect."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.layers import padding
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from densevit.errors import PluginError, WeightsError
from densevit.interfaces import Backbone
from densevit.layers.checkpointing import update_statistics_once
from densevit.layers.norms import LayerNorm2d
from densevit.layers.tracing import is_exporting
from densevit_backbones.hub_files import Repository, timm_arguments
from densevit_backbones.licences import TIMM

Size = tuple[int, int]

_NO_NETWORK = (
    "backbone=efficientnet_lite0, whose weights are a Python package, or backbone.pretrained=false "
    "backbone.weights=FILE with a file that was downloaded elsewhere"
)

# timm calls these models fixed, although they support any size: their attention is over convolutions, channels or
# windows. A dry run checks this; CoAtNet, also a MaxxVit, has global attention and fails.
_FREE = {"Twins", "Xcit", "MaxxVit"}
_RESERVED = {"img_size", "dynamic_img_size", "strict_img_size", "in_chans", "features_only", "drop_path_rate"}
# timm would load weights from these sources when the model is built, also if they come from a model file.
_SOURCES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


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
    checkpointing: timm's activation checkpointing of the model.
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
        checkpointing: bool = False,
        model_args: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        arguments = dict(model_args or {})
        if taken := sorted(_RESERVED & arguments.keys()):
            raise PluginError(f"backbone.model_args: {', '.join(taken)} cannot be set there: this plugin sets it.")
        if taken := sorted(_SOURCES & arguments.keys()):
            raise PluginError(
                f"backbone.model_args: {', '.join(taken)} cannot be set there. Fix: set backbone.pretrained for timm's "
                "weights, and backbone.weights for a file."
            )
        if model.lower().startswith("local-dir:"):
            raise PluginError(
                f"backbone.model: {model!r} is a folder. Fix: name timm's model, and set backbone.weights."
            )
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if size is not None and min(size) < 1:
            raise PluginError(f"backbone.image_size is {size}; heights and widths are 1 or more.")
        plan = _plan(model, size, drop_path, arguments)
        chosen = _choose(model, plan.strides, features)
        self.name = model
        input_arguments = {} if in_channels == 3 else {"in_chans": in_channels}  # the plan does not depend on them
        self.model = _build(model, pretrained, plan.arguments | input_arguments)
        if pretrained:
            weights = str(_config(self.model).get("license") or TIMM.weights)
            self.licences = {f"timm:{model}": replace(TIMM, weights=weights)}
        if checkpointing:
            self._checkpoint()
        self.mean, self.std = (tuple(_config(self.model)[key]) for key in ("mean", "std"))
        self.channels = tuple(plan.channels[i] for i in chosen)
        self.strides = tuple(plan.strides[i] for i in chosen)
        self.input_size = None if plan.multiple else size or plan.built_size
        self.built_size = plan.built_size
        self.multiple = plan.multiple
        self.resampled = tuple(plan.resampled[i] for i in chosen)
        prune = cast(Callable[..., list[int]], self.model.prune_intermediate_layers)
        self.final_norm = feature_norm and plan.has_final_norm
        self.indices = list(prune(chosen, prune_norm=not self.final_norm, prune_head=True))
        if feature_norm and not self.final_norm:
            self.feature_norms = nn.ModuleList(LayerNorm2d(channels, eps=1e-6) for channels in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        if self.multiple is not None:
            height, width = (-(-size // step) * step for size, step in zip((H, W), self.multiple, strict=True))
        else:
            height, width = self.built_size
        resized = max(H - height, W - width) > 0
        if resized:
            x = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
        else:
            x = F.pad(images, (0, width - W, 0, height - H))
        with _integer_padding() if is_exporting() else nullcontext():
            maps = _maps(self.model, x, self.indices, self.final_norm)
        if hasattr(self, "feature_norms"):
            maps = [norm(feature) for norm, feature in zip(self.feature_norms, maps, strict=True)]
        features = []
        for feature, stride in zip(maps, self.strides, strict=True):
            grid = (-(-H // stride), -(-W // stride))
            padded_grid = grid if resized else (-(-height // stride), -(-width // stride))
            if feature.shape[-2:] != padded_grid:
                feature = F.interpolate(feature, size=padded_grid, mode="bilinear")
            features.append(feature[..., : grid[0], : grid[1]])
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        if hasattr(self.model, "group_matcher"):
            matcher = cast(Callable[..., Any], self.model.group_matcher)(coarse=False)
            groups = group_parameters(self.model, matcher, return_values=True)
            return [*(groups[depth] for depth in sorted(groups)), *self._norm_depth()]
        parts: list[nn.Module] = []
        for child in self.model.children():
            parts += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
        groups_of_parts = [list(self.model.parameters(recurse=False)), *(list(part.parameters()) for part in parts)]
        return [*filter(None, groups_of_parts), *self._norm_depth()]

    def _norm_depth(self) -> list[list[nn.Parameter]]:
        """The last depth, the new norms of the maps, if there are any."""
        return [list(self.feature_norms.parameters())] if hasattr(self, "feature_norms") else []

    def extra_repr(self) -> str:
        return self.name

    def _checkpoint(self) -> None:
        try:
            cast(Callable[[bool], None], self.model.set_grad_checkpointing)(True)
        except (AssertionError, AttributeError) as error:
            raise PluginError(
                f"backbone.checkpointing: timm has no activation checkpointing for {self.name!r}. Leave it false."
            ) from error
        update_statistics_once(self.model)


class _Plan(NamedTuple):
    """The constructor arguments of a model, the image sizes that it accepts, and the properties of its maps."""

    arguments: dict[str, Any]  # of timm.create_model
    built_size: Size
    multiple: Size | None  # to which heights and widths are padded; None: the model takes its built size only
    channels: list[int]
    strides: list[int]
    resampled: list[bool]  # whether a map's own grid is not ceil(size / stride)
    has_final_norm: bool  # whether the model can apply its final norm to each map


_plans: dict[tuple[Any, ...], _Plan] = {}  # per process, because a model is built several times


def _plan(name: str, size: Size | None, drop_path: float | None, arguments: Mapping[str, Any]) -> _Plan:
    """The cached `_Plan` of a timm model. size: the requested image size; None: timm's. arguments: options of
    timm.create_model."""
    key = (name, size, drop_path, repr(sorted(arguments.items())))
    if key not in _plans:
        _plans[key] = _determined(name, size, drop_path, dict(arguments))
    return _plans[key]


def _determined(name: str, size: Size | None, drop_path: float | None, arguments: dict[str, Any]) -> _Plan:
    """Determines the `_Plan` of a timm model by building it and running it on the meta device several times."""
    bare = _sketch(name, arguments)
    if not hasattr(bare, "forward_intermediates") or not hasattr(bare, "prune_intermediate_layers"):
        raise PluginError(
            f"timm's {name!r} returns no features: {type(bare).__name__} has no forward_intermediates(). Use another "
            "model, or another version of timm (in 1.0.31 all of timm's own models have it)."
        )
    if drop_path is not None and not 0 <= drop_path < 1:
        raise PluginError(f"backbone.drop_path is {drop_path:g}; it is a probability, 0 or more and less than 1.")
    if drop_path is not None and _takes(bare, "drop_path_rate"):
        arguments["drop_path_rate"] = drop_path
    elif drop_path:
        raise PluginError(f"backbone.drop_path: timm's {name!r} has no stochastic depth. Leave it out.")
    native: Size = tuple(_config(bare)["input_size"][-2:])
    maps = _dry_run(bare, native)
    strides = [_stride(native, x.shape, reported) for x, reported in zip(maps, _reductions(bare), strict=True)]
    fixed_size = bool(_config(bare).get("fixed_input_size")) and _takes(bare, "img_size")
    built_size = native
    if size is not None and fixed_size:
        step = _step(strides, native, maps)
        built_size = (-(-size[0] // step) * step, -(-size[1] // step) * step)
        if built_size[0] != built_size[1] and not _builds(name, arguments, built_size):
            built_size = (max(built_size), max(built_size))  # MViTv2 and ConViT support squares only
    if fixed_size:
        arguments["img_size"] = built_size
    lifted = _lifted(bare)
    multiple = None
    if lifted is not None:
        other = lifted or fixed_size
        multiple = _multiple(_sketch(name, {**arguments, **lifted}) if other else bare, strides, built_size)
        arguments |= lifted if multiple else {}
    if multiple is None and size not in (None, native):
        model = _sketch(name, arguments)
        if not fixed_size or not _fits(model, built_size, None):
            only = f"{native[0]}x{native[1]}"
            raise PluginError(f"backbone.image_size: timm's {name!r} takes images of {only} only, not of {size}.")
        maps = _dry_run(model, built_size)
    tried = native if multiple else built_size
    resampled = [tuple(x.shape[-2:]) != _grid(tried, s) for x, s in zip(maps, strides, strict=True)]
    channels = [x.shape[1] for x in maps]
    return _Plan(arguments, built_size, multiple, channels, strides, resampled, _has_final_norm(bare, native, strides))


def _lifted(model: nn.Module) -> dict[str, Any] | None:
    """Arguments to try, with which the model may take any size; None if it takes only the size it is built for.

    If timm calls a model fixed, no other size is tried: several models run at other sizes with wrong results, such as
    MViTv2 because of its relative positions, and LeViT and ConViT if height and width are swapped.
    """
    if not _config(model).get("fixed_input_size") or type(model).__name__ in _FREE:
        return {}
    if _takes(model, "dynamic_img_size"):
        return {"dynamic_img_size": True}
    if _takes(model, "strict_img_size"):
        return {"strict_img_size": False}
    return None


def _multiple(model: nn.Module, strides: Sequence[int], built_size: Size) -> Size | None:
    """The smallest multiple to which images must be padded so that the model takes any size and its maps have
    ceil(size / stride) cells, if they have that many for any size.

    Tries non-square multiples of 1, the coarsest stride, its multiples up to 16 (windows), and the built size. None if
    the model takes no other size.
    """
    coarsest = max(strides)
    odd = ((1, 1), (coarsest + 1, 2 * coarsest - 1), (7, 2 * coarsest + coarsest // 2 + 1))
    if all(_fits(model, size, strides) for size in odd):
        return (1, 1)
    for grids in (strides, None):
        for h, w in [(k * coarsest, k * coarsest) for k in range(1, 17)] + [built_size]:
            if all(_fits(model, (h * rows, w * columns), grids) for rows, columns in ((1, 1), (2, 1), (1, 3))):
                return (h, w)
    return None


def _builds(name: str, arguments: Mapping[str, Any], size: Size) -> bool:
    """Whether the model can be built for a size and runs with it."""
    try:
        return _fits(_sketch(name, {**arguments, "img_size": size}), size, None)
    except PluginError:
        return False


def _fits(model: nn.Module, size: Size, strides: Sequence[int] | None) -> bool:
    """Whether the model runs with a size and, if strides are set, its maps have the grids of these strides."""
    try:
        maps = _dry_run(model, size)
    except (AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return False
    return strides is None or all(tuple(x.shape[-2:]) == _grid(size, s) for x, s in zip(maps, strides, strict=True))


def _has_final_norm(model: nn.Module, size: Size, strides: Sequence[int]) -> bool:
    """Whether the model has maps of one stride and width, and a final norm that `forward_intermediates` applies to
    each. Models that normalise after pooling (EVA-02) lack it."""
    norm = getattr(model, "norm", None)
    if len(set(strides)) > 1 or not isinstance(norm, nn.Module) or isinstance(norm, nn.Identity):
        return False
    try:
        _dry_run(model, size, norm=True)
    except (AssertionError, RuntimeError, TypeError):
        return False
    return True


def _choose(name: str, strides: Sequence[int], features: tuple[int, ...] | None) -> list[int]:
    """The indices of the used maps, fine to coarse."""
    count = len(strides)
    if features is not None:
        wrong = [i for i in features if not -count <= i < count]
        chosen = {i % count for i in features}
        if wrong or not features or len(chosen) < len(features):
            listed = ", ".join(f"{i}: stride {s}" for i, s in enumerate(strides))
            raise PluginError(
                f"backbone.features is {list(features)}; timm's {name!r} has the maps 0 to {count - 1}; expected each "
                f"at most once ({listed})."
            )
    elif len(set(strides)) == 1:
        chosen = {math.ceil(count * k / 4) - 1 for k in (1, 2, 3, 4)}
    else:
        deepest = {stride: i for i, stride in enumerate(strides)}
        chosen = {i for stride, i in deepest.items() if stride >= 4} or {count - 1}
    return sorted(chosen, key=lambda i: (strides[i], i))


# ---- timm's metadata, and measured values ----


def _stride(size: Size, shape: Sequence[int], reported: int) -> int:
    """Input pixels per cell, an integer: timm's value if the map agrees with it, else the measured value."""
    shown = size[0] / shape[-2]
    return (
        reported
        if tuple(shape[-2:]) == _grid(size, reported) or 2 / 3 < shown / reported < 3 / 2
        else max(1, round(shown))
    )


def _step(strides: Sequence[int], native: Size, maps: Sequence[Tensor]) -> int:
    """The number of which a built size must be a multiple: the coarsest stride; for CrossViT's branches, whose strides
    are not multiples of each other, a common multiple."""
    coarsest = max(strides)
    if all(coarsest % stride == 0 for stride in strides):
        return coarsest
    return native[0] // math.gcd(*(x.shape[-2] for x in maps))


def _grid(size: Size, stride: int) -> Size:
    return (-(-size[0] // stride), -(-size[1] // stride))


def _config(model: nn.Module) -> dict[str, Any]:
    """timm's metadata of a model and its weights."""
    return cast(dict[str, Any], model.pretrained_cfg)


def _reductions(model: nn.Module) -> list[int]:
    """The strides in timm's metadata, one per map."""
    return [info["reduction"] for info in cast(Sequence[dict[str, Any]], model.feature_info)]


def _maps(model: nn.Module, images: Tensor, indices: Sequence[int] | None, norm: bool) -> list[Tensor]:
    """The model's maps, (B, C, h, w) each; timm converts NHWC maps and tokens."""
    features = cast(Callable[..., list[Tensor]], model.forward_intermediates)
    return features(images, indices=indices, norm=norm, output_fmt="NCHW", intermediates_only=True)


@contextmanager
def _integer_padding() -> Iterator[None]:
    """Computes the widths of timm's "same" padding with integer division while a model is traced.

    timm rounds a quotient of floats up, which nests size expressions deeper in each layer, until the tracer takes
    hours. With integers, the padding of a side that is a multiple of the stride is a constant.
    """
    timms = padding.get_same_padding
    padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        padding.get_same_padding = timms


def _same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
    """timm's `get_same_padding`: the number of added cells for ceil(x / stride) outputs. x may be a symbol."""
    return cast(int, torch.sym_max((-(-x // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0))


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


@torch.no_grad()
def _dry_run(model: nn.Module, size: Size, norm: bool = False) -> list[Tensor]:
    with _ShapesOnly():
        return _maps(model, torch.empty(2, 3, *size, device="meta"), None, norm)


def _takes(model: nn.Module, argument: str) -> bool:
    """Whether a constructor of the model's classes has this argument; timm passes unknown arguments on to them."""
    constructors = (vars(base).get("__init__") for base in type(model).__mro__)
    return any(argument in inspect.signature(made).parameters for made in constructors if made is not None)


# ---- building ----


def _sketch(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model on the meta device, without memory, in evaluation mode."""
    with torch.device("meta"), _ShapesOnly():
        return _build(name, False, arguments).eval()


def _build(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    hub = ":" in name
    if not hub and not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=5, cutoff=0.5)
        hint = f" Similar names: {', '.join(near)}." if near else " timm.list_models('*net*') lists them."
        raise PluginError(f"backbone.model: timm {timm.__version__} has no model {name!r}.{hint}")
    if hub and name.startswith(("hf-hub:", "hf_hub:")) and "@" not in name:
        Repository(name, name.partition(":")[2], _NO_NETWORK).first(["config.json"])
    if pretrained and not hub and (config := timm.get_pretrained_cfg(name)) is not None:
        arguments = {**arguments, **timm_arguments(f"timm:{name}", config, _NO_NETWORK)}
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise PluginError(f"backbone.model_args: timm's {name!r} does not take them: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if pretrained or hub:
            raise WeightsError(
                f"The weights of timm's {name!r} cannot be loaded: {reason} Check the connection or timm's cache "
                "(HF_HOME), name existing weights (timm.list_pretrained()), or set backbone.pretrained=false."
            ) from error
        raise PluginError(f"timm's {name!r} cannot be built with {dict(arguments)}: {reason}") from error
    for module in model.modules():
        if isinstance(module, nn.Hardtanh | nn.SiLU | nn.Hardswish):
            module.inplace = False  # in place, autograd would copy the input first
    return model
