"""transformers' ResNet, whose keys are the same in files and models."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, Line, StateDict
from densevit_backbones.resnet.inferred_options import describe
from densevit_backbones.resnet.variants import BLOCKS, BOTTLENECKS_FROM


def _lines(prefix: str) -> tuple[Line, ...]:
    lines = [
        Line(f"{prefix}embedder.embedder.convolution.*", "conv1.*"),
        Line(f"{prefix}embedder.embedder.normalization.*", "bn1.*"),
    ]
    for stage in range(4):
        block, own = f"{prefix}encoder.stages.{stage}.layers.{{j}}", f"layer{stage + 1}.{{j}}"
        for layer in range(3):
            lines.append(Line(f"{block}.layer.{layer}.convolution.*", f"{own}.conv{layer + 1}.*"))
            lines.append(Line(f"{block}.layer.{layer}.normalization.*", f"{own}.bn{layer + 1}.*"))
        lines.append(Line(f"{block}.shortcut.convolution.*", f"{own}.downsample.0.*"))
        lines.append(Line(f"{block}.shortcut.normalization.*", f"{own}.downsample.1.*"))
    return tuple(lines)


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


def _layout(name: str, prefix: str) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        part="backbone",
        marks=(
            f"{prefix}embedder.embedder.convolution.weight",
            f"{prefix}encoder.stages.0.layers.0.layer.0.convolution.weight",
        ),
        lines=_lines(prefix),
        describe=describe,
        no_effect={"classifier.*": "the classification head"},
        config_files=_config,
    )


RESNET = _layout("transformers-resnet", "")
CLASSIFIER = _layout("transformers-resnet-classifier", "resnet.")
