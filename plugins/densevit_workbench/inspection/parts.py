"""A part of a model with its inspectors. Reports their errors and invalid results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from densevit import registry
from densevit.errors import DensevitError, PluginError
from densevit.registry.importing import described_error
from densevit_workbench.inspection.attention_layers import AttentionLayer, Grid, RecordedAttention
from densevit_workbench.inspection.figures import Figure
from densevit_workbench.inspection.inspector import Inspector

_TENSORS = ("positions", "objects")  # methods that return a tensor or None; the others return sequences


class InspectedPart:
    """A backbone or a head, with the inspector of its class and inspectors by name.

    name: the part's name in the model. named: names of further inspectors. All methods raise PluginError if an
    inspector fails or returns an invalid value.
    """

    def __init__(self, name: str, part: nn.Module, named: Sequence[str] = ()) -> None:
        self.name, self.part = name, part
        self.inspector = inspector_of(part)
        self.named = {inspector_name: build_inspector(inspector_name) for inspector_name in named}

    def positions(self) -> Tensor | None:
        return self._call(self.inspector, "positions")

    def attention(self, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
        layers: list[AttentionLayer] = self._call(self.inspector, "attention", self._inside(recorded), size)
        for layer in layers:
            _check_layer(layer, self._where(self.inspector, "attention"))
        return layers

    def objects(self, recorded: Sequence[RecordedAttention], outputs: Mapping[str, Any], size: Grid) -> Tensor | None:
        return self._call(self.inspector, "objects", self._inside(recorded), outputs, size)

    def hooks(self) -> list[RemovableHandle]:
        return [
            handle for inspector in (self.inspector, *self.named.values()) for handle in self._call(inspector, "hooks")
        ]

    def figures(
        self, recorded: Sequence[RecordedAttention], outputs: Mapping[str, Any], image: np.ndarray
    ) -> dict[str, list[Figure]]:
        """Figures by inspector; the name of the class's inspector is ""."""
        figures = {}
        for name, inspector in {"": self.inspector, **self.named}.items():
            figures[name] = self._call(inspector, "figures", self._inside(recorded), outputs, image)
        return figures

    def _inside(self, recorded: Sequence[RecordedAttention]) -> list[RecordedAttention]:
        """The attention recorded inside the part, by module names relative to the part."""
        inside = [layer for layer in recorded if f"{layer.name}.".startswith(f"{self.name}.")]
        return [layer._replace(name=layer.name.removeprefix(f"{self.name}.")) for layer in inside]

    def _call(self, inspector: Inspector, method: str, *arguments: Any) -> Any:
        try:
            result = getattr(inspector, method)(self.part, *arguments)
            return result if method in _TENSORS else list(result)
        except DensevitError:
            raise
        except Exception as error:
            reason = described_error(error, type(inspector).__module__)
            raise PluginError(f"{self._where(inspector, method)}: {reason}") from error

    def _where(self, inspector: Inspector, method: str) -> str:
        return f"{self.name} {type(self.part).__name__}: {type(inspector).__name__}.{method}"


def inspector_of(part: nn.Module) -> Inspector:
    """The installed inspector of the part's class or its nearest base class; else the default."""
    installed = registry.find("inspectors")
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(part).__mro__)
    name = next((name for name in names if name in installed), None)
    return Inspector() if name is None else build_inspector(name)


def build_inspector(name: str) -> Inspector:
    """An inspector by the name of its entry point, or `module:Class`.

    Raises PluginError for an unknown name, a failed import or constructor, and a class that is not an `Inspector`.
    """
    loaded = registry.load("inspectors", name)
    if not (isinstance(loaded, type) and issubclass(loaded, Inspector)):
        raise PluginError(
            f"The inspector {name!r} is not a subclass of {Inspector.__module__}.Inspector. "
            "Fix: see docs/own-plugins.md."
        )
    return registry.construct(loaded, name, options={}, where="inspect")


def _check_layer(layer: AttentionLayer, where: str) -> None:
    G, _, Q, K = (*layer.weights.shape, 0, 0, 0, 0)[:4]
    if layer.weights.ndim != 4 or layer.query_cells.shape != (G, Q) or layer.key_cells.shape != (G, K):
        raise PluginError(
            f"{where}: {layer.name} has weights {tuple(layer.weights.shape)}, query_cells "
            f"{tuple(layer.query_cells.shape)} and key_cells {tuple(layer.key_cells.shape)}; expected "
            "(G, heads, Q, K), (G, Q) and (G, K). Fix: build layers with global_layer and windowed_layer."
        )
    for cells, (height, width) in ((layer.query_cells, layer.query_grid), (layer.key_cells, layer.key_grid)):
        if cells.max() >= height * width:
            raise PluginError(
                f"{where}: {layer.name} has cell {int(cells.max())} on a grid of {height} x {width}; expected cells "
                f"below {height * width}, counted row by row."
            )
