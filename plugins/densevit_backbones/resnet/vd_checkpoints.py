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


def _lines(
    stem: Sequence[str], block: str, branches: Sequence[str], shortcuts: Sequence[str], names: tuple[str, str]
) -> tuple[Line, ...]:
    """Maps the keys of a layout.

    stem, branches: the keys of the three convolutions of the stem and of a block. block: the key of a block of stage
    `{s}`. shortcuts: the keys of the projection in the first block of each stage; those after the first follow a pool.
    names: the keys of a convolution and its norm.
    """
    layers = [*zip(stem, _STEM, strict=True)]
    for stage, shortcut in enumerate(shortcuts):
        source, target = block.replace("{s}", str(stage)), f"layer{stage + 1}.{{j}}"
        layers += [
            (f"{source}.{branch}", (f"{target}.conv{i}", f"{target}.bn{i}")) for i, branch in enumerate(branches, 1)
        ]
        layers.append((f"{source}.{shortcut}", (f"{target}.downsample.1", f"{target}.downsample.2")))
    return tuple(
        Line(f"{source}.{name}.*", f"{target}.*")
        for source, targets in layers
        for name, target in zip(names, targets, strict=True)
    )


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
    lines=_lines(
        [f"conv1.conv1_{i}" for i in (1, 2, 3)],
        "res_layers.{s}.blocks.{j}",
        ["branch2a", "branch2b", "branch2c"],
        ["short", *["short.conv"] * 3],
        ("conv", "norm"),
    ),
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
    lines=_lines(
        [f"embedder.embedder.{i}" for i in range(3)],
        "encoder.stages.{s}.layers.{j}",
        [f"layer.{i}" for i in range(3)],
        ["shortcut", *["shortcut.1"] * 3],
        ("convolution", "normalization"),
    ),
    describe=describe,
    options=LayoutOptions(
        project_defaults=("norm_eps",),
        implied={"hidden_act": ("relu",), "downsample_in_first_stage": (False,), "downsample_in_bottleneck": (False,)},
    ),
    publishing=Publishing(licences=licences.TRANSFORMERS, config_files=_config),
)
