"""RT-DETR's ResNet-vd ("PResNet"): the keys of the authors and of transformers' RTDetrResNetBackbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, LayoutOptions, Licences, Line, Publishing, StateDict
from densevit_backbones import licences
from densevit_backbones.resnet.inferred_options import describe
from densevit_backbones.resnet.variants import BLOCKS, BOTTLENECKS_FROM

_LICENCES = Licences(
    "Apache-2.0",
    "unknown",
    "ImageNet",
    "unknown",
    "https://github.com/lyuwenyu/RT-DETR/blob/068dfde/LICENSE",
    "2026-11-29",
)

_STEM = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))


def _conv_norm(source: str, convolution: str, norm: str, names: tuple[str, str]) -> tuple[Line, Line]:
    """names: the names of the two layers in `source`."""
    return Line(f"{source}.{names[0]}.*", f"{convolution}.*"), Line(f"{source}.{names[1]}.*", f"{norm}.*")


def _authors() -> tuple[Line, ...]:
    names = ("conv", "norm")
    lines = [
        line for i, stem in enumerate(_STEM) for line in _conv_norm(f"conv1.conv1_{i + 1}", stem[0], stem[1], names)
    ]
    for stage in range(4):
        source, target = f"res_layers.{stage}.blocks.{{j}}", f"layer{stage + 1}.{{j}}"
        for i, branch in enumerate("abc", 1):
            lines += _conv_norm(f"{source}.branch2{branch}", f"{target}.conv{i}", f"{target}.bn{i}", names)
        short = f"{source}.short.conv" if stage else f"{source}.short"  # after a pool
        lines += _conv_norm(short, f"{target}.downsample.1", f"{target}.downsample.2", names)
    return tuple(lines)


def _transformers() -> tuple[Line, ...]:
    names = ("convolution", "normalization")
    lines = [line for i, stem in enumerate(_STEM) for line in _conv_norm(f"embedder.embedder.{i}", *stem, names)]
    for stage in range(4):
        source, target = f"encoder.stages.{stage}.layers.{{j}}", f"layer{stage + 1}.{{j}}"
        for i in range(3):
            lines += _conv_norm(f"{source}.layer.{i}", f"{target}.conv{i + 1}", f"{target}.bn{i + 1}", names)
        short = f"{source}.shortcut.1" if stage else f"{source}.shortcut"
        lines += _conv_norm(short, f"{target}.downsample.1", f"{target}.downsample.2", names)
    return tuple(lines)


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    basic = options["depth"] < BOTTLENECKS_FROM
    if options.get("dilation") or "groups" in options or options.get("variant") != ("vd" if basic else "d"):
        return {}
    config = {
        "architectures": ["RTDetrResNetBackbone"],
        "model_type": "rt_detr_resnet",
        "embedding_size": 64,
        "hidden_sizes": [64 * 2**i * (1 if basic else 4) for i in range(4)],
        "depths": [*BLOCKS[options["depth"]]],
        "layer_type": "basic" if basic else "bottleneck",
        "hidden_act": "relu",
        "num_channels": 3,
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "out_features": ["stage2", "stage3", "stage4"],
    }
    return {"config.json": config}


AUTHORS = CheckpointLayout(
    name="rtdetr-resnet",
    signature_keys=(
        "conv1.conv1_1.conv.weight",
        "conv1.conv1_3.norm.weight",
        "res_layers.0.blocks.0.branch2a.conv.weight",
    ),
    lines=_authors(),
    describe=describe,
    options=LayoutOptions(project_defaults=("norm_eps",)),
    publishing=Publishing(licences=_LICENCES, files={"ResNet*_vd_*.pth": _LICENCES}),
)
TRANSFORMERS = CheckpointLayout(
    name="transformers-rtdetr-resnet",
    signature_keys=(
        "embedder.embedder.0.convolution.weight",
        "embedder.embedder.2.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
    ),
    lines=_transformers(),
    describe=describe,
    options=LayoutOptions(
        project_defaults=("norm_eps",),
        implied={"hidden_act": ("relu",), "downsample_in_first_stage": (False,), "downsample_in_bottleneck": (False,)},
    ),
    publishing=Publishing(licences=licences.TRANSFORMERS, config_files=_config),
)
