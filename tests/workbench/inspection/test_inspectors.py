"""Inspectors: found by the class of a part or named by the user; errors and invalid results are reported."""

import importlib
import re

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import densevit
from densevit import registry
from densevit_workbench.inspection.parts import inspector_of
from tests.workbench.inspection.test_model_inspection import CLASSES, example_image, of_backbone

IMAGE = example_image(64, 96)


class Windows(densevit.Backbone):
    """Attention in windows of 2 x 2 cells of 16 pixels."""

    channels, strides, window = (16,), (16,), 2

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 16, 16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patches(images)
        B, C, H, W = x.shape
        x = x.view(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, C)
        x = self.attention(x, x, x)[0].view(B, H // 2, W // 2, 2, 2, C)
        return [x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)]


class Derived(Windows):
    """A subclass."""


NAME = f"{Windows.__module__}.Windows"


WINDOWS = """
    from densevit_workbench.inspection.attention_layers import grid_of, windowed_layer
    from densevit_workbench.inspection.inspector import Inspector


    class WindowsInspector(Inspector):
        '''Attention in windows.'''

        def attention(self, part, recorded, size):
            grid = grid_of(size, 16)
            return [windowed_layer(name, weights, grid, part.window) for name, _, weights in recorded]
"""
FIGURES = """
    import numpy as np
    from densevit_workbench.inspection.figures import Figure
    from densevit_workbench.inspection.inspector import Inspector


    class Strides(Inspector):
        '''The size of the features.'''

        def hooks(self, part):
            self.calls = []
            return [part.register_forward_hook(lambda module, inputs, output: self.calls.append(output))]

        def figures(self, part, recorded, outputs, image):
            if "logits" in outputs:
                assert self.calls[0]["logits"] is outputs["logits"]
                return []
            tile = np.zeros((*self.calls[0][0].shape[2:], 3), np.uint8)
            return [Figure("strides", "Strides", "One cell, one pixel.", [("stride 16", tile)])]
"""


def test_an_inspector_with_the_name_of_a_class_is_used_for_its_parts(install):
    assert densevit.inspect(of_backbone(Derived()), IMAGE).layers == []  # its windows are not those of a global layer
    install("theirs", f"[densevit.inspectors]\n{NAME} = ti_windows:WindowsInspector\n", {"ti_windows.py": WINDOWS})
    [layer] = densevit.inspect(of_backbone(Derived()), IMAGE).layers
    assert (layer.name, layer.window, layer.query_grid) == ("attention", 2, (4, 6))
    assert layer.query_cells[1].tolist() == [2, 3, 8, 9]


def test_named_inspectors_add_their_figures_and_leave_no_hooks(install, tmp_path):
    install("theirs", "[densevit.inspectors]\nstrides = ti_strides:Strides\n", {"ti_strides.py": FIGURES})
    model = of_backbone(Windows())
    assert not any(densevit.inspect(model, IMAGE).figures.values())
    found = densevit.inspect(model, IMAGE, inspectors=["strides"])
    figures = {part: [one.name for one in own] for part, own in found.figures.items()}
    assert figures == {"backbone": ["strides"], "heads.detection": []}
    assert not any(module._forward_hooks for module in model.modules())
    files = {path.name: path for path in found.save(tmp_path)}
    with Image.open(files["strides-backbone.png"]) as png:
        assert png.width == 300
    assert "Strides: backbone" in re.findall("<h2>(.*?)</h2>", files["inspect.html"].read_text())


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("attention", "return [recorded[0].nothing]", r"backbone Windows: Wrong.attention: AttributeError: .*ti_wrong"),
        ("positions", "raise SystemError('no table')", "backbone Windows: Wrong.positions: SystemError: no table"),
        (
            "attention",
            "return [replace(layer, key_cells=layer.key_cells[:, :4])]",
            r"cells has weights \(1, 2, 9, 9\), query_cells \(1, 9\) and key_cells \(1, 4\); expected \(G, ",
        ),
        ("attention", "return [replace(layer, key_grid=(2, 3))]", "cells has cell 8 on a grid of 2 x 3; expected "),
    ],
)
def test_a_failing_inspector_is_named(method, body, message, install):
    source = f"""
    from dataclasses import replace
    import numpy as np, torch
    from densevit_workbench.inspection.attention_layers import global_layer
    from densevit_workbench.inspection.figures import Figure
    from densevit_workbench.inspection.inspector import Inspector

    layer = global_layer("cells", torch.full((1, 2, 9, 9), 1 / 9), (3, 3))

    class Wrong(Inspector):
        def {method}(self, part, recorded=None, *others):
            {body}
    """
    install("wrong", f"[densevit.inspectors]\n{NAME} = ti_wrong:Wrong\n", {"ti_wrong.py": source})
    with pytest.raises(densevit.PluginError, match=message):
        densevit.inspect(of_backbone(Windows()), IMAGE)


def test_a_broken_inspector_is_an_error_only_where_it_is_used(install):
    entries = "[densevit.inspectors]\nbroken = ti_broken:Gone\nstrangers.Net = ti_broken:Gone\nlist = builtins:list"
    install("broken", entries, {"ti_broken.py": "raise RuntimeError('no colours')"})
    model = of_backbone(Windows())
    assert densevit.inspect(model, IMAGE).image is not None
    for name, message in {
        "broken": r"The inspector 'broken' \(ti_broken:Gone, from broken 1.0\) cannot be imported: .*no colours",
        "brokn": "There is no inspector 'brokn'. Did you mean 'broken'?",
        "list": "The inspector 'list' is not a subclass",
        "densevit_workbench.inspection.inspector:Inspector": "shows nothing of this model",
    }.items():
        with pytest.raises(densevit.DensevitError, match=message):
            densevit.inspect(model, IMAGE, inspectors=[name])


def test_built_in_inspectors_have_the_names_of_classes():
    """A class that is renamed would lose its inspector without an error."""
    built_in = [one for one in registry.find("inspectors").values() if one.origin.startswith("densevit ")]
    assert len(built_in) >= 8
    for plugin in built_in:
        module, _, name = plugin.name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type), plugin.name


def test_objects_are_shown_of_detectors_with_one_map_only():
    names = ("detr", "dab_detr", "ddq", "detr_panoptic", "deformable_detr", "setr")
    found = [type(inspector_of(densevit.create_head(name, (16,), (16,), CLASSES))).__name__ for name in names]
    assert found == ["DetrInspector"] * 3 + ["Inspector"] * 3


def vit(positions):
    return densevit.create_backbone("vit", variant="nano", patch_size=8, image_size=32, positions=positions)


@pytest.mark.parametrize("positions", ["learned", "sine2d"])
def test_positions_of_a_vit_are_those_added_to_its_cells(positions):
    assert inspector_of(rotary := vit("rotary")).positions(rotary) is None
    backbone = vit(positions)
    found = inspector_of(backbone).positions(backbone)
    tokens: list[Tensor] = []
    backbone.blocks[0].register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    backbone.eval()(torch.zeros(1, 3, 32, 32))
    cells = tokens[0][0, -16:] - backbone.stem(torch.zeros(1, 3, 32, 32))[1][0].flatten(0, 1)
    torch.testing.assert_close(found.flatten(0, 1), cells)
