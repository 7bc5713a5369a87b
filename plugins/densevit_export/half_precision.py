"""Half precision of exported files: selects the blocks of a model by their error compared with float32."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from densevit.interfaces import Size
from densevit_export import file_comparison
from densevit_export.graph import ExportedGraph
from densevit_export.typed_graph import Rounded, compares, heavy_layers, set_types

Half = Literal["fp16", "bf16"]
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LIMITS: Mapping[str, float] = {"fp16": 1e-2, "bf16": 4e-2}
"""The largest difference of a file from its model by type, relative to an output's range; `_COMPARING` times as much
for a model that compares values."""
SHARE = 0.5  # of the limit, for all blocks together: a margin for other images
TOLERANCE = 0.2  # of the limit, for one block
_MAX_BLOCKS = 24  # rows of the table
_IMAGES = 2
_COMPARING = 4.0  # times the limit: a comparison that flips changes more than rounding


@dataclass(frozen=True)
class BlockPrecision:
    """A module of the model. error: the largest difference of an output, relative to its range, with only this block's
    heavy layers in half precision; infinite for values that are not finite. precision: fp16, bf16 or fp32.
    """

    name: str
    error: float
    precision: str

    def as_json(self) -> dict[str, Any]:
        """The block as JSON; an infinite error is null."""
        return {**asdict(self), "error": self.error if math.isfinite(self.error) else None}


@dataclass(frozen=True)
class HalfPrecision:
    """The precision of a file.

    blocks: the blocks in the order of computation. compares: whether the model compares values that depend on blocks,
    as masked attention compares mask logits with 0.
    """

    half: Half
    blocks: Sequence[BlockPrecision]
    compares: bool = False

    @property
    def limit(self) -> float:
        """The largest allowed difference from the model, relative to an output's range."""
        return LIMITS[self.half] * (_COMPARING if self.compares else 1.0)

    def hint(self) -> str:
        """A sentence on the half-precision block with the largest error."""
        worst = max(_in_half(self.blocks), key=lambda block: block.error, default=None)
        if worst is None:
            return f" No block is in {self.half}."
        return f" Of the blocks in {self.half}, `{worst.name}` has the largest error, {worst.error:.1e}."

    def set_types(self, program: torch.export.ExportedProgram) -> None:
        """Sets the types of the model's traced graph, in place."""
        in_half = {block.name for block in _in_half(self.blocks)}
        layers = _by_block(heavy_layers(program), [block.name for block in self.blocks])
        set_types(program, [node for name in in_half for node in layers.get(name, ())], _TYPES[self.half])

    def as_json(self) -> dict[str, Any]:
        """The entry `half` of a header."""
        return {"precision": self.half, "limit": self.limit, "blocks": [block.as_json() for block in self.blocks]}


def measured(graph: ExportedGraph, program: torch.export.ExportedProgram, size: Size, half: Half) -> HalfPrecision:
    """Selects the blocks of a model that can compute in half precision.

    graph: the model's graph, in float32, without resizing. program: the traced graph. size: (h, w) of the compared
    images. A block stays in float32 if its error exceeds a fifth of the limit. Then blocks return to float32, those
    with the largest errors first, until the outputs with all remaining half-precision blocks differ from the model's by
    at most half of the limit.
    """
    rounded = Rounded(program, _TYPES[half])
    images = torch.from_numpy(file_comparison.example_images(size, _IMAGES, 0, graph.model.channels))
    inputs = [images, *graph.focal_example(_IMAGES).values()]
    expected = rounded.outputs(inputs)
    layers = heavy_layers(program)
    by_block = _by_block(layers, _blocks(layers.values()))

    def error(nodes: Iterable[Node]) -> float:
        return _error(graph, rounded.outputs(inputs, nodes), expected, size)

    limit = LIMITS[half]
    blocks = []
    for name, nodes in by_block.items():
        block_error = error(nodes)
        blocks.append(BlockPrecision(name, block_error, half if block_error <= TOLERANCE * limit else "fp32"))
    while in_half := _in_half(blocks):
        if error(node for block in in_half for node in by_block[block.name]) <= SHARE * limit:
            break
        worst = max(in_half, key=lambda block: block.error)
        blocks[blocks.index(worst)] = replace(worst, precision="fp32")
    return HalfPrecision(half, blocks, compares(program, layers))


def _error(graph: ExportedGraph, outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], size: Size) -> float:
    arrays = [{name: value.numpy() for name, value in named.items()} for named in (outputs, expected)]
    return max(file_comparison.relative_errors(graph, arrays[0], arrays[1], size).values(), default=0.0)


def _in_half(blocks: Iterable[BlockPrecision]) -> list[BlockPrecision]:
    return [block for block in blocks if block.precision != "fp32"]


def _blocks(modules: Iterable[str]) -> list[str]:
    """Names of at most `_MAX_BLOCKS` modules that contain `modules`.

    Starts with the model, and splits the module with most layers into its children while the limit allows.
    """
    counts = Counter(tuple(name.split(".")) for name in modules)
    blocks: dict[tuple[str, ...], list[tuple[str, ...]]] = {(): [*counts]}
    final = set[tuple[str, ...]]()
    while rest := blocks.keys() - final:
        largest = max(rest, key=lambda name: (sum(counts[module] for module in blocks[name]), name))
        children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for module in blocks[largest]:
            children.setdefault(module[: len(largest) + 1], []).append(module)
        if largest in children or len(blocks) - 1 + len(children) > _MAX_BLOCKS:
            final.add(largest)
        else:
            del blocks[largest]
            blocks |= children
    return [".".join(name) for name in blocks]


def _by_block(layers: Mapping[Node, str], blocks: Sequence[str]) -> dict[str, list[Node]]:
    """The layers of each block, in the order of computation. layers: the name of each node's module."""
    result: dict[str, list[Node]] = {}
    for node, module in layers.items():
        containing = [name for name in blocks if not name or f"{module}.".startswith(f"{name}.")]
        if containing:
            result.setdefault(max(containing, key=len), []).append(node)
    return result
