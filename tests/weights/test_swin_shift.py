"""A Swin's shift on maps of one window: in exports, conversions and pretrained weights."""

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.inference.creating import build_model
from densevit.weights.converting import convert
from densevit.weights.foreign_export import export
from densevit.weights.label_sets import segmentation_classes
from densevit.weights.model_file import load_backbone, save_backbone
from densevit.weights.pretrained import load_pretrained

SWIN = {"name": "swin", "variant": "nano", "window_size": 4}


@pytest.fixture
def backbone(tmp_path):
    """`backbone(shift)`: the folder of a backbone; without a rule, of one that was saved before the option existed."""

    def backbone(shift=None):
        torch.manual_seed(0)
        section = {**SWIN, **({"shift": shift} if shift else {})}
        folder = tmp_path / f"{shift}"
        folder.mkdir()
        save_backbone(densevit.create_backbone(**section).eval(), section, folder / "model.safetensors")
        return folder

    return backbone


@pytest.mark.parametrize(
    ("shift", "layout", "theirs"),
    [
        (None, "timm-swin", None),
        (None, "torchvision-swin", None),
        (None, "microsoft-swin", "both_axes"),
        (None, "transformers-swin", "both_axes"),
        (None, "microsoft-swin-dense", "dense"),
        ("dense", "microsoft-swin-dense", None),
        ("dense", "timm-swin", "per_axis"),
        ("both_axes", "microsoft-swin", None),
    ],
)
def test_an_export_reports_another_shift(shift, layout, theirs, backbone):
    notes = [note for note in export(backbone(shift), layout).notes if "shift" in note]
    assert notes == ([f"There, shift is {theirs}: outputs differ for some image sizes."] if theirs else [])


@pytest.mark.parametrize(
    ("layout", "shift"),
    [
        ("microsoft-swin", "both_axes"),
        ("microsoft-swin-dense", "dense"),
        ("transformers-swin", "both_axes"),
        ("timm-swin", "per_axis"),
        ("torchvision-swin", "per_axis"),
    ],
)
def test_a_converted_backbone_has_the_shift_of_its_project(layout, shift, backbone, tmp_path):
    file = tmp_path / "theirs.pth"
    export(backbone(), layout).write(file)
    converted = convert(file)
    assert converted.section.options["shift"] == shift
    assert converted.backbone.stages[2][-1].attention.rule == shift


def test_training_from_weights_of_another_shift_reports_it(backbone, tmp_path):
    file = tmp_path / "theirs.pth"
    export(backbone(), "microsoft-swin").write(file)
    notes = []
    for own in ({}, {"shift": "both_axes"}, {"shift": "per_axis"}):
        section = {**SWIN, "weights": str(file), **own}
        values = {"backbone": section, "heads": {"maps": {"name": "setr", "width": 16}}, "data": {"name": "scenes"}}
        config = configs.from_mapping({**values, "trainer": {"max_steps": 1}})
        fits = load_pretrained(build_model(config, {"segmentation": segmentation_classes(2)}), config)
        notes.append([note for note in fits[0].notes if "shift" in note])
    at_default = "microsoft-swin computes with backbone.shift both_axes; the config leaves it at per_axis."
    assert notes == [[at_default], [], []]


def test_a_model_saved_without_a_shift_keeps_the_default(backbone):
    assert load_backbone(backbone())[0].stages[2][-1].attention.rule == "per_axis"
