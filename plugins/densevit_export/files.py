"""Traces models and writes files: ONNX, and torch.export's pt2."""

import contextlib
import io
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from densevit.errors import DensevitError
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit_export.graph import ExportedGraph, ResizedGraph
from densevit_export.header import append_entry
from densevit_export.runtimes import HEADER_FILE, IMAGES, METADATA, THRESHOLDS, silenced
from densevit_export.typed_graph import softmax_in_float32

TRACING, CONVERTING, SAVING = "tracing the model", "converting it to ONNX", "saving the file"
_MAX_OPERATIONS = 40  # in the expression of a size inside a backbone; at most 20 where the export takes minutes
_OPSET = 18  # the one of PyTorch's operators, so that none is converted
_SIDES = {0: "batch", 2: "height", 3: "width"}  # names of the dimensions of `images` that vary
_BATCH = 13  # of traced images; unequal to any number of layers, which the tracer would take for the batch


Begin = Callable[[str], None]
"""Called with the name of a step of the export when it begins."""
Rewrite = Callable[[torch.export.ExportedProgram], None]
"""Changes a traced graph in place."""


def unchanged(program: torch.export.ExportedProgram) -> None:
    """Leaves a traced graph unchanged."""


def count_steps(path: Path, resize: bool) -> int:
    """The number of steps of `write`."""
    return {".pt2": 2, ".onnx": 5 if resize else 3}.get(path.suffix, 3)


def write(
    graph: ExportedGraph,
    path: Path,
    size: Size,
    header: Mapping[str, Any],
    begin: Begin = lambda name: None,
    rewrite: Rewrite = unchanged,
    program: torch.export.ExportedProgram | None = None,
) -> Path | torch.export.ExportedProgram:
    """Traces the graph and writes it. size: (h, w) of the traced images; the file takes other sizes too. header:
    written as JSON into the file. rewrite: changes the traced graph, except for the resizing. program: the result of
    `traced` for this graph without resizing and this size, which is changed in place; None: traces the graph. Returns
    the path of an ONNX file, or the traced graph of a pt2 file, which is slow to load.
    Raises DensevitError if the model cannot be traced.
    """
    blank, focal = graph.model.blank_images, graph.focal_example(_BATCH)
    with tracing(graph.model):
        if path.suffix == ".pt2":
            begin(TRACING)
            program = _traced(graph, [blank(_BATCH, size), *focal.values()]) if program is None else program
            _remove_guards(program)
            rewrite(program)
            _remove_unused(program)
            begin(SAVING)
            with suppress(ValueError):  # torch 2.6 keeps them
                program.example_inputs = None  # example images are as large as many models
            torch.export.save(program, path, extra_files={HEADER_FILE: json.dumps(header)})
            return program
        names = list(graph(blank(1, size), **graph.focal_example(1)))
        if graph.resizing is None:
            begin(TRACING)
            program = _traced(graph, [blank(_BATCH, size), *focal.values()]) if program is None else program
            rewrite(program)
            begin(CONVERTING)
            exported = converted(program, [IMAGES, *focal], names)
        else:
            original = (size[0] + 6, size[1] + 14)
            resizing = converted_resizing(graph, original, begin)
            begin(TRACING)
            program = _traced(ResizedGraph(graph), [blank(_BATCH, size), blank(_BATCH, original), *focal.values()])
            rewrite(program)
            begin(CONVERTING)
            exported = converted(program, ["resized", IMAGES, *focal], names)
            prepend(resizing, exported.model.graph)
        begin(SAVING)
        save(exported, path, header)
        return path


def converted_resizing(graph: ExportedGraph, original: Size, begin: Begin) -> Any:
    """The resizing as an onnx_ir.Graph, with the input `images` and the output `resized`."""
    begin("tracing the resizing")
    assert graph.resizing is not None
    program = _traced(graph.resizing, [graph.model.blank_images(_BATCH, original)])
    begin("converting the resizing to ONNX")
    return converted(program, ["images"], ["resized"]).model.graph


def save(exported: torch.onnx.ONNXProgram, path: Path, header: Mapping[str, Any]) -> None:
    """Writes an ONNX file with a header."""
    _name_sides(exported.model.graph)
    for node in exported.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # paths of the exporting machine
    exported.model.metadata_props.update(_metadata(header))
    exported.save(path)


def _name_sides(graph: Any) -> None:
    """Names the dimensions of `images` that vary, also in the shapes of other values. graph: onnx_ir.Graph."""
    import onnx_ir

    (images,) = (value for value in graph.inputs if value.name == IMAGES)
    names = {str(images.shape[i].value): name for i, name in _SIDES.items() if not isinstance(images.shape[i], int)}
    words = re.compile("|".join(rf"\b{name}\b" for name in names) or "(?!)")
    values = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in (value for value in values if value.shape is not None):
        value.shape = onnx_ir.Shape(
            words.sub(lambda match: names[match[0]], side.value) if getattr(side, "value", None) else side
            for side in value.shape
        )


def _metadata(header: Mapping[str, Any]) -> dict[str, str]:
    """The header, and for programs that do not read JSON the class names of each head and the values of the input
    `thresholds`, one per line."""
    lines = {f"classes/{name}": [c["name"] for c in head["classes"]] for name, head in header.get("heads", {}).items()}
    lines[THRESHOLDS] = [str(score) for score in (header.get("postprocess") or {THRESHOLDS: {}})[THRESHOLDS].values()]
    return {METADATA: json.dumps(header)} | {key: "\n".join(values) for key, values in lines.items() if values}


@contextlib.contextmanager
def tracing(model: DenseModel) -> Iterator[None]:
    """Silences the tracer. Raises DensevitError, naming the parts, if the model cannot be traced, and within seconds if
    tracing would take hours."""
    with silenced(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(), _limited_sizes(model.backbone):
        try:
            yield
        except (OSError, DensevitError):
            raise
        except Exception as error:  # the tracer raises any
            parts = [type(model.backbone).__name__, *(type(head).__name__ for head in model.heads.values())]
            raise DensevitError(
                f"{' with '.join(parts)} cannot be exported: {_reason(error)} "
                "See docs/export.md, what can be exported; "
                "with a canvas (--canvas HxW), sizes are constants."
            ) from error


@contextlib.contextmanager
def _limited_sizes(backbone: nn.Module) -> Iterator[None]:
    """Raises DensevitError while a backbone is traced if a size inside it is a long expression of the image's size.

    Such expressions nest, for example when each layer pads windows again; the tracer then takes minutes per operation.
    """

    def check(module: nn.Module, _: object, output: object) -> None:
        for side in output.shape if isinstance(output, torch.Tensor) else ():
            if isinstance(side, torch.SymInt) and side.node.expr.count_ops() > _MAX_OPERATIONS:
                raise DensevitError(
                    f"{type(backbone).__name__} cannot be exported for images of any size: from "
                    f"{type(module).__name__} on, sizes inside it are long expressions of the image's size, for which "
                    "torch.export takes hours. Fix: a canvas (--canvas HxW), or a backbone such as swin, vit, resnet, "
                    "or timm's convnext and efficientnet."
                )

    with contextlib.ExitStack() as hooks:
        for module in backbone.modules():
            hooks.callback(module.register_forward_hook(check).remove)
        yield


def replace_header(path: Path, header: Mapping[str, Any]) -> None:
    """Replaces the header of a file written by `write`."""
    if path.suffix == ".pt2":
        torch.export.save(torch.export.load(path), path, extra_files={HEADER_FILE: json.dumps(header)})
        return
    if path.suffix != ".onnx":
        append_entry(path, HEADER_FILE, header)
        return
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, _metadata(header))
    onnx.save(model, path)


def traced(graph: ExportedGraph, size: Size) -> torch.export.ExportedProgram:
    """Traces a graph for images of a size (h, w), without resizing. Raises DensevitError if it cannot be traced."""
    with tracing(graph.model):
        examples = [graph.model.blank_images(_BATCH, size), *graph.focal_example(_BATCH).values()]
        return _traced(graph, examples)


def _traced(graph: nn.Module, examples: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Traces a graph on example images, `_BATCH` per input, and focal lengths."""
    varies = torch.export.Dim.DYNAMIC
    shapes: tuple[dict[int, Any], ...] = tuple(
        {0: varies} if x.ndim == 1 else {0: varies, 2: varies, 3: varies} for x in examples
    )
    return torch.export.export(graph, tuple(examples), dynamic_shapes=shapes, strict=False)


def _remove_guards(program: torch.export.ExportedProgram) -> None:
    """Removes the tracer's conditions on image sizes, which a loaded program would check.

    Some conditions hold only for the traced size, for example that the last windows of a Swin need no padding. The
    graph computes the same as the model for other sizes, too; `export` compares several.
    """
    if hasattr(program, "_guards_code"):  # not in all versions of torch
        program._guards_code = []


def _remove_unused(program: torch.export.ExportedProgram) -> None:
    """Removes parameters and buffers that the graph does not use, of layers for training only. ONNX files have none."""
    kept = []
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", None)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and name in nodes and not nodes[name].users:
            program.graph.erase_node(nodes[name])
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)  # a buffer outside the state dict
        else:
            kept.append(spec)
    program.graph_signature.input_specs[:] = kept
    program.graph_module.recompile()


def converted(
    program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> torch.onnx.ONNXProgram:
    """Converts a traced graph to ONNX, with these names of inputs and outputs."""
    from onnxscript import opset18

    def floor_divide(numerator: Any, denominator: Any) -> Any:
        """Divides sizes and rounds down, as in Python: `-(-side // stride)` rounds up. ONNX's Div rounds towards 0."""
        return opset18.Div(opset18.Sub(numerator, opset18.Mod(numerator, denominator)), denominator)

    def stable_sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        """ONNX's TopK orders equal values by index."""
        indices: Any = opset18.Constant(value_ints=[dim])
        length = opset18.Gather(opset18.Shape(x), indices)
        return opset18.TopK(x, length, axis=dim, largest=int(descending), sorted=1)

    def suppressed(boxes: Any, scores: Any, classes: Any, iou: float) -> Any:
        """`class_nms` on the operator's axis of classes: scores (1, K, N), -1 in the rows of other classes."""
        op: Any = opset18
        rows = op.Unsqueeze(op.Range(0, op.Add(op.ReduceMax(classes, keepdims=0), 1), 1), [1])
        by_class = op.Unsqueeze(op.Where(op.Equal(rows, classes), scores, -1.0), [0])
        index = op.Gather(
            op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), by_class, op.Size(scores), iou, -0.5), 2, axis=1
        )
        return op.Gather(index, stable_sort(op.Gather(scores, index), descending=True)[1])

    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        input_names=inputs,
        output_names=outputs,
        opset_version=_OPSET,
        custom_translation_table={
            operator.floordiv: floor_divide,
            torch.ops.aten.sort.stable: stable_sort,
            torch.ops.densevit.class_nms.default: suppressed,
        },
        verbose=False,
    )
    assert exported is not None
    softmax_in_float32(exported.model.graph)
    return exported


def prepend(first: Any, second: Any) -> None:
    """Moves the nodes of an ONNX graph to the front of another graph and connects equally named outputs and inputs.

    Other inputs of the same name become one input. first, second: onnx_ir.Graph.
    """
    import onnx_ir

    inputs = {value.name: value for value in second.inputs}
    (computed,) = first.outputs
    replaced = inputs.pop(computed.name)
    for value in first.inputs:
        onnx_ir.convenience.replace_all_uses_with(value, inputs[value.name])
    onnx_ir.convenience.replace_all_uses_with(replaced, computed)
    second.inputs.remove(replaced)
    first.outputs.clear()
    nodes, initializers = list(first), list(first.initializers.values())
    first.initializers.clear()
    first.remove(nodes)
    values = [value for node in nodes for value in node.outputs]
    for named in [*nodes, *initializers, *values]:
        named.name = f"resizing/{named.name}"  # unique in `second`
    for value in values:
        value.shape = None  # its symbolic sizes may mean others in `second`
    for value in initializers:
        second.register_initializer(value)
    second.insert_before(second[0], nodes)


def _reason(error: BaseException) -> str:
    """The first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(".") + "."
