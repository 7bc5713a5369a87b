"""A Swin's shift on maps of one window: in exports, conversions and pretrained weights."""

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.weights.building import build_model
from densevit.weights.label_sets import segmentation_classes
from densevit.weights.model_file import save_backbone
from densevit.weights.pretrained import load_pretrained
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert

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
        (None, "microsoft-swin", "both_axes"),
        (None, "transformers-swin", "both_axes"),
        (None, "microsoft-swin-dense", "dense"),
        ("dense", "microsoft-swin-dense", None),
        ("dense", "timm-swin", "per_axis"),
    ],
)
def test_an_export_reports_another_shift_which_its_conversion_has(shift, layout, theirs, backbone, tmp_path):
    exported = export(backbone(shift), layout)
    notes = [note for note in exported.notes if "shift" in note]
    assert notes == ([f"There, shift is {theirs}: outputs differ for some image sizes."] if theirs else [])
    exported.write(tmp_path / "theirs.pth")
    converted = convert(tmp_path / "theirs.pth")
    assert converted.section.options["shift"] == (theirs or shift or "per_axis")
    assert converted.backbone.stages[2][-1].attention.rule == (theirs or shift or "per_axis")


def config_of(**backbone):
    values = {"backbone": {**SWIN, **backbone}, "heads": {"maps": {"name": "setr", "width": 16}}}
    return configs.from_mapping({**values, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}})


def loaded(config, seed=0):
    torch.manual_seed(seed)
    model = build_model(config, {"segmentation": segmentation_classes(2)})
    return model, load_pretrained(model, config)[0].notes


def test_weights_set_the_shift_of_their_project_unless_the_config_does(backbone, tmp_path):
    file = tmp_path / "theirs.pth"
    export(backbone(), "microsoft-swin").write(file)
    notes = []
    for own, expected in (
        ({}, "both_axes"),
        ({"shift": "both_axes"}, "both_axes"),
        ({"shift": "per_axis"}, "per_axis"),
    ):
        config = config_of(weights=str(file), **own)
        model, found = loaded(config)
        assert model.backbone.stages[2][-1].attention.rule == model.architecture.backbone.options["shift"] == expected
        assert config.backbone.options["shift"] == expected
        notes.append([note for note in found if "shift" in note])
    assert notes == [
        ["backbone.shift is both_axes in place of per_axis: microsoft-swin computes with it."],
        [],
        ["Warning: backbone.shift is per_axis; microsoft-swin computes with both_axes."],
    ]


def test_a_backbone_created_with_another_shift_warns(backbone, tmp_path):
    file = tmp_path / "theirs.pth"
    export(backbone(), "microsoft-swin").write(file)
    with pytest.warns(UserWarning, match="^backbone.shift is per_axis; microsoft-swin computes with both_axes.$"):
        own = densevit.create_backbone(**SWIN, shift="per_axis", weights=file)
    assert own.stages[2][-1].attention.rule == "per_axis"
    with pytest.warns(UserWarning, match="^backbone.shift is per_axis; microsoft-swin computes with both_axes.$"):
        densevit.create_model({**SWIN, "shift": "per_axis"}, {"maps": "setr"}, ["a", "b"], weights=file)


def test_the_config_with_the_options_of_weights_gives_the_same_model(backbone, tmp_path):
    """A window other than the default has other bias tables, which are random before the weights are loaded."""
    file = tmp_path / "theirs.pth"
    export(backbone(), "microsoft-swin").write(file)
    config = config_of(weights=str(file))
    del config.backbone.window_size
    model, _ = loaded(config)
    assert config.backbone.options["window_size"] == 4
    again, notes = loaded(configs.from_mapping(config.model_dump()))
    assert [note for note in notes if "window" in note or "shift" in note] == []
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
