"""Options that tensors do not determine, in configs and exports: a Swin's shift, a hybrid's standardisation."""

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.weights.label_sets import segmentation_classes
from densevit.weights.model_file import save, save_backbone
from densevit.weights.pretrained_models import build_model
from densevit_workbench.interchange.foreign_weights import convert
from tests.weights.authors_files import in_layout, write_in_layout
from tests.weights.loading import built

SWIN = {"name": "swin", "variant": "nano", "window_size": 4}


@pytest.fixture
def exported(tmp_path):
    """`exported(layout, shift)`: a file in a layout; without a rule, of a backbone saved before the option was."""

    def exported(layout, shift=None):
        section = {**SWIN, **({"shift": shift} if shift else {})}
        save_backbone(densevit.create_backbone(**section).eval(), section, tmp_path / "model.safetensors")
        write_in_layout(tmp_path, layout, tmp_path / "theirs.pth")
        return str(tmp_path / "theirs.pth")

    return exported


@pytest.mark.parametrize(
    ("shift", "layout", "theirs"),
    [
        (None, "timm-swin", None),
        (None, "microsoft-swin", "both_axes"),
        ("dense", "microsoft-swin-dense", None),
        ("dense", "timm-swin", "per_axis"),
    ],
)
def test_a_conversion_has_the_shift_of_the_layout(shift, layout, theirs, exported):
    converted = convert(exported(layout, shift))
    assert converted.section.options["shift"] == (theirs or shift or "per_axis")
    assert converted.model.backbone.stages[2][-1].attention.rule == (theirs or shift or "per_axis")


def loaded(values):
    values |= {"heads": {"maps": {"name": "setr", "width": 16}}, "data": {"name": "scenes"}}
    config = configs.from_mapping({**values, "trainer": {"max_steps": 1}})
    model, config, [report] = built(config, {"segmentation": segmentation_classes(2)})
    return model, config, [note for note in report.notes if "shift" in note]


@pytest.mark.parametrize(
    ("own", "shift", "notes"),
    [
        ({}, "both_axes", ["backbone.shift is both_axes in place of per_axis: microsoft-swin computes with it."]),
        ({"shift": "both_axes"}, "both_axes", []),
        (
            {"shift": "per_axis"},
            "per_axis",
            ["Warning: backbone.shift is per_axis; microsoft-swin computes with both_axes."],
        ),
    ],
)
def test_weights_set_the_shift_of_their_project_unless_the_config_does(own, shift, notes, exported):
    """The window, too, is that of the weights; the config that results gives the same model."""
    backbone = {"name": "swin", "variant": "nano", "weights": exported("microsoft-swin"), **own}
    model, config, found = loaded({"backbone": backbone})
    assert found == notes and config.backbone.options["window_size"] == 4
    assert model.backbone.stages[2][-1].attention.rule == shift
    assert config.backbone.options["shift"] == shift
    again, _, found = loaded({"backbone": config.model_dump()["backbone"]})
    assert found == [note for note in notes if note.startswith("Warning")]
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, again.backbone.state_dict()[name]), name


def test_a_backbone_created_with_another_shift_warns(exported):
    file = exported("microsoft-swin")
    with pytest.warns(UserWarning, match="^backbone.shift is per_axis; microsoft-swin computes with both_axes.$"):
        own = densevit.create_backbone(**SWIN, shift="per_axis", weights=file)
    assert own.stages[2][-1].attention.rule == "per_axis"
    with pytest.warns(UserWarning, match="^backbone.shift is per_axis; microsoft-swin computes with both_axes.$"):
        densevit.create_model({**SWIN, "shift": "per_axis"}, {"maps": "setr"}, ["a", "b"], weights=file)


HYBRID = {
    "name": "vit", "variant": "nano", "stem": "resnet", "image_size": 64, "readout": "project", "feature_norm": False,
    "position_resizing": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
}  # fmt: skip
DEPTH = {"name": "dpt", "width": 32, "reassemble_channels": [256, 512, 32, 32], "output": "relative", "norm": "none"}


@pytest.fixture
def run(tmp_path):
    """`run(arithmetic, spread)`: a run's folder. spread: filters' deviations differ by up to this factor."""

    def run(arithmetic, spread=1000.0):
        torch.manual_seed(0)
        backbone = {**HYBRID, "weight_standardization": arithmetic}
        values = {"backbone": backbone, "heads": {"depth": DEPTH}, "data": {"name": "scenes"}}
        model = build_model(configs.from_mapping({**values, "trainer": {"max_steps": 1}}), {"depth": ()}).eval()
        for name, weight in model.backbone.stem.named_parameters():
            if "conv" in name or "downsample.0" in name:
                weight.data *= spread ** -torch.rand(len(weight), 1, 1, 1)
        folder = tmp_path / f"{arithmetic}-{spread:g}"
        folder.mkdir()
        save(model, folder / "model.safetensors")
        return folder

    return run


@pytest.mark.integration
@pytest.mark.parametrize(("arithmetic", "layout"), [("std", "dpt-hybrid"), ("variance", "transformers-dpt-hybrid")])
def test_weight_standardization_round_trips_through_the_config(arithmetic, layout, run, tmp_path):
    source, out, back = run(arithmetic), tmp_path / "out.pth", tmp_path / "back"
    write_in_layout(source, layout, out)
    assert main(["convert", str(out), str(back), "--as", layout]) == 0
    assert configs.load(back).backbone.options.get("weight_standardization", "variance") == arithmetic
    first, second = torch.load(out, weights_only=True), in_layout(back, layout)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
