"""Recognition of layouts."""

import re
from types import SimpleNamespace

import pytest
import torch

from densevit.errors import PluginError, WeightsError
from densevit.interfaces import CheckpointLayout
from densevit.weights import layouts
from densevit.weights.checkpoint_io import Checkpoint
from densevit.weights.foreign_checkpoint import translate_checkpoint


def made(*found):
    return {name: CheckpointLayout(name, marks, (), lambda state: {}) for name, marks in found}


@pytest.fixture
def known(monkeypatch):
    found = made(
        ("a-vit", ("cls", "blocks.{i}.w")),
        ("a-deit", ("cls", "blocks.{i}.w", "dist")),
        ("b-net", ("conv", "stages.{i}.w")),
        ("c-net", ("conv", "stages.{i}.w")),
        ("no-marks", ()),
    )
    registry = SimpleNamespace(find=lambda group: found, load=lambda group, name: found[name])
    monkeypatch.setattr(layouts, "registry", registry)


def state(*names):
    return {name: torch.empty(0) for name in names}


def test_most_specific_matching_layout_is_selected(known):
    assert layouts.recognise(state("blocks.0.w", "cls")).name == "a-vit"
    assert layouts.recognise(state("blocks.0.w", "dist", "cls")).name == "a-deit"


def test_no_match_error_shows_keys_and_known_layouts(known):
    with pytest.raises(WeightsError) as error:
        layouts.recognise(state(*"abcdefgh"), "some.pth")
    assert str(error.value) == (
        "some.pth has 8 tensors (a, b, c, ..., f, g, h), which match no known layout. No layout has any of these keys: "
        "`densevit plugins` lists the projects whose checkpoints can be read."
    )


def test_nearest_layout_and_its_first_difference_are_named():
    state = {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.weight": 0, "blocks.0.norm1.weight": 0, "levels.0.w": 0}
    with pytest.raises(WeightsError) as error:
        layouts.recognise({f"{name}": torch.empty(0) for name in state}, "some.pth")
    assert str(error.value).endswith(
        "which match no known layout. The nearest is beit, which has 4 of these keys; there is no "
        "blocks.0.attn.proj.weight, and levels.0.w is not one of its keys. If it is one of these, read it with "
        "`densevit convert some.pth OUT --as beit`; a layout of your own is a plugin (docs/weights.md)."
    )


def test_ambiguous_match_error_names_both(known):
    with pytest.raises(
        WeightsError, match=r"2 tensors \(conv, stages\.1\.w\), which match b-net and c-net\. .* --as NAME"
    ):
        layouts.recognise(state("conv", "stages.1.w"))


def test_unknown_name_suggests_the_nearest(known):
    assert layouts.find("b-net").name == "b-net"
    with pytest.raises(WeightsError, match=r"Unknown layout 'a-vti'\. Did you mean 'a-vit'\? Known: a-deit, a-vit"):
        layouts.find("a-vti")


def test_all_modules_are_found_and_layouts_are_complete():
    names = layouts.names()
    assert {"torchvision-resnet", "detr", "timm-vit"} <= set(names)
    for name in names:
        layout = layouts.find(name)
        assert layout.name == name and layout.marks
        if not layout.is_backbone:
            assert all(line.ours == "0" or line.ours.startswith(("backbone.", "heads.")) for line in layout.lines)


REFUSED = {
    *("eva02", "eomt-dinov3-differences", "dinov3-gated", "dinov3-convnext"),
    *("transformers-dinov3-gated", "transformers-dinov3-convnext"),
}
KEYS_ONLY = {  # read and written back, with names and shapes of the authors' tensors; what theirs computes is not run
    *("axial-deeplab-axial_resnet", "deepvit", "kmax-deeplab", "localvit", "vision-longformer", "transformers-mae"),
    *(f"mask2former{backbone}-{task}" for backbone in ("", "-resnet") for task in ("instance", "semantic")),
    "depth-anything-v1",
}


def test_each_layout_is_compared_with_its_project_in_one_test(project):
    """Tests name their layouts in the mark `parity`."""
    pages = [path.read_text() for path in (project / "tests").rglob("test_*.py")]
    marks = [mark for page in pages for mark in re.findall(r"^@pytest\.mark\.parity\(([^)]*)\)", page, re.MULTILINE)]
    compared = [name for mark in marks for name in re.findall(r'"([^"]+)"', mark)]
    assert sorted(compared) == sorted({layout.name for layout in layouts.every()} - REFUSED - KEYS_ONLY)


@pytest.mark.parametrize(
    ("name", "config", "found"),
    [
        ("transformers-vit", {"hidden_act": "relu"}, 'hidden_act: "relu"'),
        ("transformers-resnet", {"downsample_in_first_stage": True}, "downsample_in_first_stage: true"),
        ("transformers-swin", {"hidden_act": "gelu_new"}, 'hidden_act: "gelu_new"'),
        ("transformers-detr", {"activation_function": "gelu"}, 'activation_function: "gelu"'),
        ("transformers-detr-panoptic", {"activation_function": "silu"}, 'activation_function: "silu"'),
        ("transformers-deformable-detr-resnet", {"activation_function": "gelu"}, 'activation_function: "gelu"'),
        ("transformers-dpt-hybrid", {"readout_type": "add"}, 'readout_type: "add"'),
        ("transformers-mask2former", {"backbone_config": {"hidden_act": "relu"}}, 'backbone_config.hidden_act: "relu"'),
    ],
)
def test_values_of_config_json_for_which_no_model_is_built_are_refused(name, config, found):
    with pytest.raises(WeightsError, match=f"a.bin: its config.json has {found}, but a {name} is built with .* only"):
        translate_checkpoint(Checkpoint({}, "a.bin", metadata={"config": config}), layouts.find(name))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("transformers-vit", {"hidden_size": 768, "num_attention_heads": 8}),
        ("transformers-dpt", {"hidden_size": 768, "num_attention_heads": 8}),
        ("transformers-swin", {"embed_dim": 96, "num_heads": [2, 4, 8, 16]}),
        ("transformers-swinv2", {"embed_dim": 96, "num_heads": [2, 4, 8, 16]}),
    ],
)
def test_other_numbers_of_attention_heads_are_refused(name, config):
    with pytest.raises(WeightsError, match=r"config\.json has .* attention heads for \d+ channels; .* is built with"):
        layouts.find(name).options.saved({}, {"config": config})


BROKEN = "[densevit.checkpoints]\nbroken-net = bl_broken:NET\nother-name = bl_whole:NET\nno-layout = bl_whole:Line\n"
WHOLE = """
    from densevit.interfaces import CheckpointLayout, Line

    NET = CheckpointLayout("whole-net", ("stem.w",), (Line("stem.w", "conv.w"),), lambda tensors: {})
    """


def test_a_broken_layout_affects_only_its_own_checkpoints(install):
    entry_points = BROKEN + "whole-net = bl_whole:NET\n"
    install("strangers", entry_points, {"bl_broken.py": "raise RuntimeError('torn')", "bl_whole.py": WHOLE})
    with pytest.warns(UserWarning, match="recognised") as warned:
        assert layouts.recognise(state("stem.w")).name == "whole-net"
    messages = sorted(str(one.message) for one in warned)
    assert len(messages) == 3
    assert messages[0].startswith(
        "The checkpoint layout 'broken-net' (bl_broken:NET, from strangers 1.0) cannot be imported: RuntimeError: torn"
    )
    assert "'no-layout' (bl_whole:Line, from strangers 1.0) is the class Line, which is not a" in messages[1]
    assert "densevit.CheckpointLayout. Write `Line = densevit.CheckpointLayout(...)`." in messages[1]
    assert "'other-name' is called 'whole-net' in its module; expected the entry point's name" in messages[2]
    assert all(message.endswith("Checkpoints of this layout are not recognised.") for message in messages)
    with pytest.raises(PluginError, match="broken-net"):
        layouts.find("broken-net")


def test_a_layout_needs_no_entry_point(install):
    install("loose", "", {"bl_loose.py": WHOLE})
    assert layouts.find("bl_loose:NET").name == "whole-net"
    with pytest.raises(PluginError, match="no module 'bl_absent'"):
        layouts.find("bl_absent:NET")
