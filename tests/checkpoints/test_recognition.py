"""Recognition of layouts."""

import re

import pytest
import torch
import torchvision

from densevit.errors import DensevitError, WeightsError
from densevit.interfaces import CheckpointLayout
from densevit.layouts import every, find
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints.converting import convert_checkpoint
from densevit_checkpoints.recognition import recognise

SIGNATURES = {
    "a-vit": ("cls", "blocks.{i}.w"),
    "a-deit": ("cls", "blocks.{i}.w", "dist"),
    "b-net": ("conv", "stages.{i}.w"),
    "c-net": ("conv", "stages.{i}.w"),
    "no-signature": (),
}


def state(*names):
    return {name: torch.empty(0) for name in names}


def test_the_most_specific_layout_is_selected_and_no_or_several_and_unknown_names_are_refused(only_layouts):
    only_layouts({name: CheckpointLayout(name, keys, (), lambda state: {}) for name, keys in SIGNATURES.items()})
    assert recognise(state("blocks.0.w", "cls")).name == "a-vit"
    assert recognise(state("blocks.0.w", "dist", "cls")).name == "a-deit"
    with pytest.raises(WeightsError, match=r"some\.pth has 8 tensors \(a, b, c, \.\.\., f, g, h\).*`densevit plugins`"):
        recognise(state(*"abcdefgh"), "some.pth")
    with pytest.raises(WeightsError, match=r"2 tensors \(conv, stages\.1\.w\).* b-net and c-net\. .* --as NAME"):
        recognise(state("conv", "stages.1.w"))
    assert find("b-net").name == "b-net"
    with pytest.raises(WeightsError, match=r"Unknown layout 'a-vti'\. Did you mean 'a-vit'\? Known: a-deit, a-vit"):
        find("a-vti")


def test_each_layout_refuses_another_architecture_and_its_marks_alone_in_one_line():
    """The layout is named, as by `convert --as`."""
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    with pytest.raises(WeightsError) as error:
        recognise(detector.state_dict(), "detector.pth")
    assert "--as" not in str(error.value)
    for layout in every():
        signature_keys = [re.sub(r"\[\d/\d\]$", "", re.sub(r"\{\w+\}", "0", key)) for key in layout.signature_keys]
        for tensors in (detector.state_dict(), {key: torch.zeros(1) for key in signature_keys}):
            with pytest.raises(DensevitError) as error:
                convert_checkpoint(Checkpoint(tensors, "some.pth"), layout.name)
            assert len(str(error.value).splitlines()) == 1, layout.name


REFUSED = {
    *("eva02", "eomt-dinov3-differences", "dinov3-gated", "dinov3-convnext"),
    *("transformers-dinov3-gated", "transformers-dinov3-convnext", "gtr-deployed"),
    *("gtr-pose", "gtr-oriented", "gtr-depth"),
}
KEYS_ONLY = {  # read and written back, with names and shapes of the authors' tensors; what theirs computes is not run
    *("axial-deeplab-axial_resnet", "deepvit", "kmax-deeplab", "localvit", "vision-longformer", "transformers-mae"),
    *(f"mask2former{backbone}-{task}" for backbone in ("", "-resnet") for task in ("instance", "semantic")),
    *("depth-anything-v1", "gtr-backbone"),
}


def test_each_layout_is_compared_with_its_project_in_one_test(project):
    """Tests name their layouts in the mark `parity`."""
    pages = [path.read_text() for path in (project / "tests").rglob("test_*.py")]
    marks = [mark for page in pages for mark in re.findall(r"^@pytest\.mark\.parity\(([^)]*)\)", page, re.MULTILINE)]
    compared = [name for mark in marks for name in re.findall(r'"([^"]+)"', mark)]
    assert sorted(compared) == sorted({layout.name for layout in every()} - REFUSED - KEYS_ONLY)
