"""Types of a traced graph: its heavy layers in half precision, all other operations in float32.

The types are in the graph, not left to a runtime. Convolutions, linear layers and matrix products get inputs and
weights in half precision. Operations that only move values keep the type of their input. Everything else, such as
softmax, norms, activations, residual sums, sampling and decoding, is computed in float32; so are layers that feed an
output or a selection without another heavy layer between, and regions in which the model disables autocast.
"""

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

aten: Any = torch.ops.aten
_HEAVY = (
    aten.linear,
    aten.conv1d,
    aten.conv2d,
    aten.conv3d,
    aten.conv_transpose1d,
    aten.conv_transpose2d,
    aten.conv_transpose3d,
    aten.matmul,
    aten.mm,
    aten.bmm,
    aten.addmm,
    aten.baddbmm,
    aten.einsum,
    aten.scaled_dot_product_attention,
)
_MOVING = (
    aten.view,
    aten.reshape,
    aten.flatten,
    aten.unflatten,
    aten.transpose,
    aten.permute,
    aten.movedim,
    aten.t,
    aten.squeeze,
    aten.unsqueeze,
    aten.expand,
    aten.slice,
    aten.select,
    aten.index_select,
    aten.roll,
    aten.unbind,
    aten.split,
    aten.split_with_sizes,
    aten.chunk,
    aten.cat,
    aten.stack,
    aten.pad,
    aten.contiguous,
    aten.clone,
    aten.detach,
    aten.dropout,
    aten.relu,
    aten.relu_,
    aten.max_pool2d,
)
_ROOTS = re.compile(r"^(exported\.)?model\.?|@\d+")  # before module names, and after names of repeated calls


def heavy_layers(program: torch.export.ExportedProgram) -> dict[Node, str]:
    """The convolutions and matrix products except output layers, which can compute in half precision, with the names of
    their modules in the model."""
    heavy = {node: _module_of(node) for node in program.graph.nodes if _packet(node) in _HEAVY and _floats([node])}
    seen, ends = set[Node](), [node for node in program.graph.nodes if node.op == "output" or _decides(node)]
    while ends:
        for node in ends.pop().all_input_nodes:
            if node in heavy:
                del heavy[node]  # an output layer
            elif node not in seen and _packet(node) not in _HEAVY and not _is_region(node):
                seen.add(node)
                ends.append(node)
    return heavy


def compares(program: torch.export.ExportedProgram, layers: Iterable[Node]) -> bool:
    """Whether values that depend on these layers are compared, as in masked attention."""
    reached = set(layers)
    for node in program.graph.nodes:
        if node not in reached and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            values = [value for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
            if _decides(node) and any(value.dtype == torch.bool for value in values):
                return True
    return False


def set_types(program: torch.export.ExportedProgram, half: Iterable[Node], dtype: torch.dtype) -> None:
    """Changes a float32 graph in place: nodes `half`, some of `heavy_layers`, compute in `dtype`.

    Weights used by these nodes only are stored in `dtype`. Inputs and outputs of the graph keep their types.
    """
    graph, chosen = program.graph, set(half)
    for node in list(graph.nodes):
        if _packet(node) is aten._assert_tensor_metadata:
            graph.erase_node(node)  # asserts the old type
    typed = _stored(program, chosen, dtype)
    casts: dict[tuple[Node, torch.dtype], Node] = {}

    def cast(node: Node, to: torch.dtype, user: Node) -> Node:
        """Casts a node's value; returns the node itself if it has this type or no floating-point value."""
        if not _floats([node]) or (node in typed) == (to == dtype):
            return node
        if (node, to) not in casts:
            with graph.inserting_before(user):
                made = graph.call_function(aten.to.dtype, (node, to))
            made.meta = {key: value for key, value in user.meta.items() if key in ("nn_module_stack", "stack_trace")}
            made.meta["val"] = node.meta["val"].to(to)
            casts[node, to] = made
        return casts[node, to]

    for node in list(graph.nodes):
        if node.op != "placeholder":
            inputs = _floats(node.all_input_nodes)
            is_half = node in chosen or (_moves(node) and bool(inputs) and typed.issuperset(inputs))
            if _packet(node) is not None or node.op == "output" or _is_region(node):
                cast_input = functools.partial(cast, to=dtype if is_half else torch.float32, user=node)
                node.args = torch.fx.map_arg(node.args, cast_input)
                node.kwargs = torch.fx.map_arg(node.kwargs, cast_input)
            if is_half:
                typed.add(node)
                node.meta["val"] = pytree.tree_map_only(Tensor, lambda x: x.to(dtype), node.meta["val"])
    program.graph_module.recompile()


def _stored(program: torch.export.ExportedProgram, half: set[Node], dtype: torch.dtype) -> set[Node]:
    """Stores weights that only half-precision layers use in half precision; returns their nodes."""

    def only_half(node: Node) -> bool:
        moved = _moves(node) and len(_floats(node.all_input_nodes)) == 1
        return node in half or (moved and bool(node.users) and all(map(only_half, node.users)))

    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    stored = set[Node]()
    for spec in program.graph_signature.input_specs:
        node = nodes.get(getattr(spec.arg, "name", ""))
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER) or node is None or not _floats([node]):
            continue
        if spec.target in program.state_dict and node.users and all(map(only_half, node.users)):
            value = program.state_dict[spec.target]
            rounded = value.detach().to(dtype)
            is_parameter = isinstance(value, torch.nn.Parameter)
            program.state_dict[spec.target] = torch.nn.Parameter(rounded, False) if is_parameter else rounded
            node.meta["val"] = node.meta["val"].to(dtype)
            stored.add(node)
    return stored


class Rounded(Interpreter):
    """Runs a float32 graph, and rounds inputs and outputs of some layers to half precision.

    Sums inside a layer are in float32, as on GPUs. Comparisons, selections and roundings to integers repeat the first
    run, which rounds no layer: a value near a threshold would otherwise hide the size of its error.
    """

    def __init__(self, program: torch.export.ExportedProgram, dtype: torch.dtype) -> None:
        super().__init__(program.graph_module)
        self._program, self._dtype = program, dtype
        self._half = set[Node]()
        self._decisions: dict[Node, Any] = {}

    def outputs(self, user_inputs: Sequence[Tensor], half: Iterable[Node] = ()) -> dict[str, Tensor]:
        """The outputs of the graph by name. half: the layers to round."""
        self._half, remaining = set(half), iter(user_inputs)
        state, constants = self._program.state_dict, self._program.constants
        inputs = [
            next(remaining) if spec.kind == InputKind.USER_INPUT else state.get(spec.target, constants.get(spec.target))
            for spec in self._program.graph_signature.input_specs
        ]
        with torch.inference_mode():
            return pytree.tree_unflatten(
                self.run(*inputs, enable_io_processing=False), self._program.call_spec.out_spec
            )

    def run_node(self, node: Node) -> Any:
        if node in self._decisions:
            return self._decisions[node]
        if node in self._half:
            args, kwargs = self._rounded(self.fetch_args_kwargs_from_env(node))
            assert callable(node.target)
            return self._rounded(node.target(*args, **kwargs))
        result = super().run_node(node)
        if _decides(node):
            self._decisions[node] = result
        return result

    def _rounded(self, values: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda x: x.to(self._dtype).float() if x.is_floating_point() else x, values)


def softmax_in_float32(graph: Any) -> None:
    """Adds casts around each Softmax of an ONNX graph whose input is in half precision. graph: onnx_ir.Graph.

    In the traced graph, attention is one operation, whose kernels compute softmax in float32; ONNX has its parts.
    """
    import onnx_ir

    float32 = onnx_ir.DataType.FLOAT
    for node in [node for node in graph if node.op_type == "Softmax"]:
        value, result = node.inputs[0], node.outputs[0]
        if value.dtype in (float32, None):
            continue
        users = list(result.uses())
        wide = _onnx_cast(value, float32, f"{node.name}_input")
        narrow = _onnx_cast(result, value.dtype, f"{node.name}_output")
        node.replace_input_with(0, wide.outputs[0])
        result.dtype = float32
        for user, index in users:
            user.replace_input_with(index, narrow.outputs[0])
        graph.insert_before(node, wide)
        graph.insert_after(node, narrow)


def _onnx_cast(value: Any, dtype: Any, name: str) -> Any:
    import onnx_ir

    node = onnx_ir.node("Cast", [value], {"to": dtype.value}, name=name)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = name, value.shape, dtype
    return node


def _packet(node: Node) -> Any:
    """The operator, without its overload; None for other nodes."""
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def _moves(node: Node) -> bool:
    return node.target is operator.getitem or _packet(node) in _MOVING


def _is_region(node: Node) -> bool:
    """Whether a node is a subgraph, such as a region without autocast: `densevit.layers.precision.autocast_off`."""
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _decides(node: Node) -> bool:
    """Whether booleans or indices are computed from floating-point values."""
    values = [value for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
    discrete = any(not value.is_floating_point() for value in values)
    return discrete and _packet(node) is not None and bool(_floats(node.all_input_nodes))


def _floats(nodes: Sequence[Node]) -> list[Node]:
    """The nodes among `nodes` whose value is, or contains, a floating-point tensor."""
    return [
        node
        for node in nodes
        if any(
            isinstance(value, Tensor) and value.is_floating_point()
            for value in pytree.tree_leaves(node.meta.get("val"))
        )
    ]


def _module_of(node: Node) -> str:
    """The name, in the model, of the module that a node of the graph is part of."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {"": ("", None)}
    return _ROOTS.sub("", [*stack.values()][-1][0])
