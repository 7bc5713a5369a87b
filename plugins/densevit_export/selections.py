"""Selections inside an exported file, such as proposals of two-stage heads, for comparison with the model."""

import ast
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from densevit.layers.selection import SelectTop
from densevit.model import DenseModel
from densevit_export.runtimes import IMAGES, Run, load

_SCOPES = "pkg.torch.onnx.name_scopes"  # the modules that an ONNX node was traced in


def load_selections(model: DenseModel, written: Path | torch.export.ExportedProgram) -> Run | None:
    """Returns a function that computes the top-k selections of an exported file; None if no head has any.

    Its outputs are `selection_I` (B, N) int64 and, unless they are integers, `selection_scores_I` (B, S) of the I-th
    selection of a head (`densevit.layers.selection`), with the prefix HEAD/ for several heads. Both are values of the
    file's graph. model: the traced model, whose module names are in the file. written: the result of `write`.
    """
    names = _Names(model)
    if not names.heads:
        return None
    if isinstance(written, Path) and written.suffix != ".onnx":  # has them as outputs
        run = load(written)
        return lambda images: {
            name: value if value.dtype.kind == "f" else value.astype(np.int64)
            for name, value in run(images).items()
            if "selection_" in name
        }
    return _onnx_selections(written, names) if isinstance(written, Path) else _pt2_selections(written, names)


class _Names:
    """Names the selections of a graph in order. heads: the prefix of the outputs of a `SelectTop`'s head, by the module
    name of the `SelectTop`."""

    def __init__(self, model: DenseModel) -> None:
        self.heads = {
            f"heads.{head}.{name}": f"{head}/" if len(model.heads) > 1 else ""
            for head, module in model.heads.items()
            for name, part in module.named_modules(remove_duplicate=False)
            if isinstance(part, SelectTop)
        }
        self.counts = Counter[str]()

    def next(self, scopes: Iterable[str]) -> tuple[str, str] | None:
        """The names of scores and indices for a node in these modules; None outside `SelectTop`."""
        modules = [scope.partition("@")[0].rpartition("heads.") for scope in scopes]  # @1: the second call of a module
        prefix = next((self.heads[key] for _, *parts in modules if (key := "".join(parts)) in self.heads), None)
        if prefix is None:
            return None
        i = self.counts[prefix]
        self.counts[prefix] += 1
        return f"{prefix}selection_scores_{i}", f"{prefix}selection_{i}"


def _onnx_selections(path: Path, names: _Names) -> Run | None:
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = onnx_ir.load(path)
    graph = model.graph
    outputs = []
    for node in [node for node in graph if node.op_type == "TopK"]:
        selection = names.next(ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")))
        if selection is None:
            continue
        values = node.inputs[0], node.outputs[1]
        scores, indices = (_copied(graph, name, value) for name, value in zip(selection, values, strict=True))
        outputs += [indices] if scores.dtype.is_integer() else [indices, scores]
    if not outputs:
        return None
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    RemoveUnusedNodesPass()(model)
    for value in [value for value in graph.inputs if value.name != IMAGES]:
        graph.inputs.remove(value)  # post-processing inputs
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        selections = Path(folder) / path.name
        onnx_ir.save(model, selections)
        return load(selections)


def _copied(graph: Any, name: str, value: Any) -> Any:
    """Adds a copy of a value of an onnx_ir.Graph under another name."""
    import onnx_ir

    node = onnx_ir.Node("", "Identity", [value])
    (output,) = node.outputs
    output.name, output.type, output.shape = name, value.type, value.shape
    graph.append(node)
    return output


def _pt2_selections(program: torch.export.ExportedProgram, names: _Names) -> Run | None:
    module: Any = program.module()
    selected: dict[Node, tuple[str, str]] = {}
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.topk.default:
            selection = names.next(name for name, _ in node.meta.get("nn_module_stack", {}).values())
            if selection is not None:
                selected[node] = selection
    if not selected:
        return None
    further = sum(node.op == "placeholder" for node in module.graph.nodes) - 1  # focal lengths

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        recorder = _SelectionRecorder(module, selected)
        with torch.no_grad():
            recorder.run(torch.from_numpy(images), *[torch.ones(len(images))] * further)
        return recorder.values

    return run


class _SelectionRecorder(Interpreter):
    """Runs a traced graph and records its selections."""

    def __init__(self, module: Any, selected: dict[Node, tuple[str, str]]) -> None:
        super().__init__(module)
        self.selected, self.values = selected, dict[str, np.ndarray]()

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.selected:
            scores, indices = self.selected[n]
            candidates = self.fetch_args_kwargs_from_env(n)[0][0]
            self.values[indices] = result[1].numpy()
            if candidates.is_floating_point():
                self.values[scores] = candidates.float().numpy()
        return result
