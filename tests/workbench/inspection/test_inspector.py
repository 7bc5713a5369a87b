"""Inspectors: found by the class of a part or named by the user; errors are reported."""

import importlib

from torch import Tensor, nn

import densevit
from densevit import registry
from tests.workbench.inspection.test_model_inspection import example_image, of_backbone

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


def test_an_inspector_with_the_name_of_a_class_is_used_for_its_parts(install):
    assert (
        densevit.inspect_model(of_backbone(Derived()), IMAGE).layers == []
    )  # its windows are not those of a global layer
    install("theirs", f"[densevit.inspectors]\n{NAME} = ti_windows:WindowsInspector\n", {"ti_windows.py": WINDOWS})
    [layer] = densevit.inspect_model(of_backbone(Derived()), IMAGE).layers
    assert (layer.name, layer.window, layer.query_grid) == ("attention", 2, (4, 6))
    assert layer.query_cells[1].tolist() == [2, 3, 8, 9]


def test_built_in_inspectors_have_the_names_of_classes():
    """A class that is renamed would lose its inspector without an error."""
    built_in = [one for one in registry.find("inspectors").values() if one.origin.startswith("densevit ")]
    assert len(built_in) >= 8
    for plugin in built_in:
        module, _, name = plugin.name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type), plugin.name
