"""The deployed form of a model, with merged blocks and folded batch norms."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from densevit.config import InferenceSection
from densevit.errors import PluginError
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit.model.tensor_batches import as_batch
from densevit_export.batch_norm_folding import fold_batch_norms
from densevit_export.file_comparison import example_images

_SIZE: Size = (165, 230)  # of the example image
Module = TypeVar("Module", bound=nn.Module)


def deployable(model: DenseModel) -> DenseModel:
    """Returns a copy of a model in evaluation mode that computes the same outputs, up to rounding, with fewer layers.

    Replaces each module with a method `merged() -> nn.Module`, such as a RepVGG block, by its result; then folds batch
    norms, also frozen norms, into the convolution or linear layer before them. The model itself does not change. The
    copy is for inference only: it cannot be trained or saved as a model file. Raises PluginError if `merged` returns
    something other than a module.
    """
    return simplified(model, _run)


def _run(model: DenseModel) -> Any:
    """Runs the parts of a model that predictions need, on an example image in one pass."""
    height, width = model.backbone.input_size or _SIZE
    images = torch.from_numpy(example_images((height, width), 1, 0, model.channels)).to(model.device)
    if not model.heads:
        return model.backbone(images.to(model.mean.dtype))
    return model.with_inference(InferenceSection().model_dump()).infer(as_batch(images, model, [{"focal": 1.0}]))


def simplified(module: Module, run: Callable[[Module], Any]) -> Module:
    """`deployable` for any module: returns a copy in evaluation mode.

    run: calls the module on an example input; returns its outputs.
    """
    copied = copy.deepcopy(module).eval()
    with torch.no_grad():
        merge_blocks(copied)
        fold_batch_norms(copied, run)
    return copied


def merge_blocks(module: nn.Module) -> None:
    """Replaces, in place, each submodule with a method `merged` by its result."""
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out repeated modules
            merged = getattr(child, "merged", None)
            if child is None:
                continue
            if child not in replaced and callable(merged):
                replaced[child] = _checked(merged(), child).eval()
            if child in replaced:
                parent.register_module(name, replaced[child])


def _checked(result: Any, block: nn.Module) -> nn.Module:
    if not isinstance(result, nn.Module):
        raise PluginError(
            f"{type(block).__name__}.merged() returned a {type(result).__name__}; expected a torch.nn.Module that "
            "computes the block's outputs in evaluation mode."
        )
    return result
