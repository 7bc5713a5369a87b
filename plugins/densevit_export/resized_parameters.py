"""Resized parameters of traced models, such as position embeddings, as constants."""

import operator
from functools import partial
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg


def with_resized_parameters(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Replaces the resizing of parameters, such as position embeddings, by its result, in place: neither converter has
    bicubic interpolation."""
    constant: dict[Node, bool] = {}
    for node in module.graph.nodes:
        is_call = node.op == "call_function"
        constant[node] = node.op == "get_attr" or (is_call and all(constant[x] for x in node.all_input_nodes))
    resized = [node for node in constant if constant[node] and "upsample" in str(node.target)]
    for i, node in enumerate(resized):
        module.register_buffer(f"resized_{i}", _value(module, node))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"resized_{i}"))
        module.graph.erase_node(node)
    module.recompile()
    return module


def _value(module: torch.fx.GraphModule, node: Any) -> Any:
    """The value of a node that depends on parameters only."""
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(module)
    args, kwargs = map_arg((node.args, node.kwargs), partial(_value, module))
    return node.target(*args, **kwargs)
