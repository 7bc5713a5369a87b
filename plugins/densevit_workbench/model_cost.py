"""Parameters and multiply-adds of a model for one image of a given size."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densevit.errors import DensevitError
from densevit.interfaces import Batch
from densevit.layers.unchanged import evaluation_mode
from densevit.model.dense import DenseModel

_aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Cost of a model for one image.

    trained_parameters: parameters that are not frozen.
    multiply_adds: the number in convolutions, matrix products, attention (fused or not) with windows, and deformable
        sampling; norms, activation functions and interpolation are not counted.
    """

    parameters: int
    trained_parameters: int
    multiply_adds: int


def model_cost(model: DenseModel, size: tuple[int, int]) -> Cost:
    """Counts parameters, and multiply-adds of a forward pass of one image without decoding (`Head.predict`).

    size: (h, w) of the model's input. Computed from shapes on the meta device. If a plugin reads values in its forward
    pass, the model runs on a blank image on its own device instead.
    """
    try:
        return _measured(_on_meta(model), size)
    except (NotImplementedError, RuntimeError) as error:
        device = next((x.device for x in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        if device.type == "meta":
            raise DensevitError(
                f"the cost of this model cannot be counted from shapes alone ({error}). Fix: build it outside of "
                "torch.device('meta'), so that it can run on a blank image."
            ) from error
    with evaluation_mode(model):
        return _measured(model, size)


def _on_meta(model: DenseModel) -> DenseModel:
    """A copy of the model whose parameters and buffers are on the meta device, in evaluation mode."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(x): _shape_only(x) for x in tensors}
    return copy.deepcopy(model, memo).to("meta").eval()


def _shape_only(x: Tensor) -> Tensor:
    empty = torch.empty_like(x, device="meta")
    return nn.Parameter(empty, x.requires_grad) if isinstance(x, nn.Parameter) else empty


def _measured(model: DenseModel, size: tuple[int, int]) -> Cost:
    device = model.mean.device
    batch: Batch = {
        "images": model.blank_images(1, size).to(device),
        "padding_mask": torch.zeros(1, *size, dtype=torch.bool, device=device),
        "targets": [{"size": size, "original_size": size}],
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Cost(sum(p.numel() for p in model.parameters()), trained, multiply_adds(model, batch))


def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Returns the multiply-adds of one forward pass of any module, counted as in `Cost.multiply_adds`."""
    mappings: dict[Any, Any] = {_aten._embedding_bag: _embedding_bag, _aten._embedding_bag_forward_only: _embedding_bag}
    counter = FlopCounterMode(display=False, custom_mapping=mappings)
    trained = [p for p in module.parameters() if p.requires_grad]
    # Attention written as matrix products is counted on every device; torch's counter lacks some fused kernels.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter in trained:  # torch's counter hooks into the graph of any tensor that requires a gradient
            parameter.requires_grad_(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in trained:
            parameter.requires_grad_(True)
    return counter.get_total_flops() // 2


def _embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """FLOPs of a weighted sum of rows, by which deformable attention samples values. Arguments are shapes."""
    return 0 if per_sample_weights is None else 2 * indices.numel() * weight[1]
