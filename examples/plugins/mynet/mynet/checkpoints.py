"""Checkpoints of the authors' own training code, which numbers all five convolutions."""

from typing import Any

from densevit.interfaces import CheckpointLayout, Line, Publishing, SpecialTensors, StateDict

_CONVOLUTIONS = ("stem.0", "stem.1", "stages.0", "stages.1", "stages.2")


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section, from tensors with the backbone's keys."""
    return {"backbone": {"name": "mynet", "width": len(tensors["stem.0.0.weight"])}}


RELEASED = CheckpointLayout(
    name="mynet-released",
    signature_keys=("conv1.weight", "norm1.weight", "conv5.weight", "norm5.weight"),
    lines=(
        *(Line(f"conv{i}.*", f"{convolution}.0.*") for i, convolution in enumerate(_CONVOLUTIONS, 1)),
        *(Line(f"norm{i}.*", f"{convolution}.1.*") for i, convolution in enumerate(_CONVOLUTIONS, 1)),
    ),
    describe=describe,
    special=SpecialTensors(no_effect={"fc.*": "the classification head"}),
    publishing=Publishing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
)
