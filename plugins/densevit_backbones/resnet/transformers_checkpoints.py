"""transformers' ResNet, whose keys are the same in files and models."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import (
    CheckpointLayout,
    Class,
    LayoutOptions,
    Line,
    OtherKeys,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit_backbones.licences import TRANSFORMERS
from densevit_backbones.resnet.inferred_options import describe
from densevit_backbones.resnet.published_models import TRANSFORMERS as MODELS
from densevit_backbones.resnet.variants import BLOCKS, BOTTLENECKS_FROM


def _lines() -> tuple[Line, ...]:
    layers = {f"layer.{i}": (f"conv{i + 1}", f"bn{i + 1}") for i in range(3)}
    layers |= {"shortcut": ("downsample.0", "downsample.1")}
    return (
        Line("embedder.embedder.convolution.*", "conv1.*"),
        Line("embedder.embedder.normalization.*", "bn1.*"),
        *(
            Line(f"encoder.stages.{stage}.layers.{{j}}.{layer}.{name}.*", f"layer{stage + 1}.{{j}}.{target}.*")
            for stage in range(4)
            for layer, targets in layers.items()
            for name, target in zip(("convolution", "normalization"), targets, strict=True)
        ),
    )


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    options = sections["backbone"]
    if options.get("dilation") or "groups" in options or "variant" in options or options.get("norm") == "group":
        return {}
    blocks, bottleneck = BLOCKS[options["depth"]], options["depth"] >= BOTTLENECKS_FROM
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "embedding_size": 64,
        "hidden_sizes": [64 * 2**i * (4 if bottleneck else 1) for i in range(4)],
        "depths": [*blocks],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "num_channels": 3,
    }
    return {"config.json": config}


RESNET = CheckpointLayout(
    name="transformers-resnet",
    signature_keys=(
        "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
    ),
    lines=_lines(),
    describe=describe,
    other_keys=OtherKeys(
        prefixes=("resnet.",),  # a classifier's
    ),
    special=SpecialTensors(no_effect={"classifier.*": "the classification head"}),
    options=LayoutOptions(
        implied={"hidden_act": ("relu",), "downsample_in_first_stage": (False,), "downsample_in_bottleneck": (False,)},
        project_defaults=("norm_eps",),
    ),
    publishing=Publishing(
        licences=TRANSFORMERS, files={"hf:microsoft/resnet-*": TRANSFORMERS}, models=MODELS, config_files=_config
    ),
)
