"""transformers' ResNet, whose keys are the same in files and models."""

from densevit.weights.key_mapping import Layout, Line
from densevit.weights.variants import described, resnet


def resnet_lines(theirs: str, ours: str = "") -> tuple[Line, ...]:
    """theirs, ours: prefixes of all keys, including the dot."""
    lines = [
        Line(f"{theirs}embedder.embedder.convolution.*", f"{ours}conv1.*"),
        Line(f"{theirs}embedder.embedder.normalization.*", f"{ours}bn1.*"),
    ]
    for stage in range(4):
        block, own = f"{theirs}encoder.stages.{stage}.layers.{{j}}", f"{ours}layer{stage + 1}.{{j}}"
        for layer in range(3):
            lines.append(Line(f"{block}.layer.{layer}.convolution.*", f"{own}.conv{layer + 1}.*"))
            lines.append(Line(f"{block}.layer.{layer}.normalization.*", f"{own}.bn{layer + 1}.*"))
        lines.append(Line(f"{block}.shortcut.convolution.*", f"{own}.downsample.0.*"))
        lines.append(Line(f"{block}.shortcut.normalization.*", f"{own}.downsample.1.*"))
    return tuple(lines)


def _layout(name: str, prefix: str) -> Layout:
    lines = resnet_lines(prefix)
    return Layout(
        name=name,
        part="backbone",
        marks=(
            f"{prefix}embedder.embedder.convolution.weight",
            f"{prefix}encoder.stages.0.layers.0.layer.0.convolution.weight",
        ),
        lines=lines,
        describe=described(resnet, lines),
        no_effect={"classifier.*": "the classification head"},
    )


LAYOUTS = (_layout("transformers-resnet", ""), _layout("transformers-resnet-classifier", "resnet."))
