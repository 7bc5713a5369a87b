"""Parameters, multiply-adds and activations of a model, by module, for one image of a given size."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from densevit.errors import DensevitError
from densevit.interfaces import Batch
from densevit.model.dense import DenseModel

_aten = torch.ops.aten
_PROJECTIONS = {_aten.mm, _aten.addmm, _aten.convolution, _aten._convolution}


@dataclass(frozen=True)
class Cost:
    """Cost of a module for one image.

    name: dotted name within the model; "" for the model itself. trained_parameters: those that are not frozen.
    multiply_adds: those of convolutions, matrix products and attention (fused or not), windows and deformable sampling
        included; norms, activation functions and interpolation are not counted.
    activations: output elements of convolutions and linear layers (Radosavovic et al. 2020, section 3.1).
    children: costs of the child modules, in their order.
    """

    name: str
    parameters: int
    trained_parameters: int
    multiply_adds: int
    activations: int
    children: tuple["Cost", ...] = ()

    def modules(self, depth: int | None = None) -> Iterator["Cost"]:
        """Yields this cost and those of its submodules, parents first, `depth` levels down (None: all).

        A list of modules, such as `stages` or `heads`, counts as one level.
        """
        yield self
        for child in self.children if depth != 0 else ():
            yield from child.modules(None if depth is None else depth - 1)


def model_cost(model: DenseModel, size: tuple[int, int]) -> Cost:
    """Returns the cost of a forward pass of one image, without decoding (`Head.predict`), by module.

    size: (h, w) of the model's input. Computed from shapes on the meta device, wherever the model's parameters are. A
    plugin that reads values in its forward pass cannot run there: the model then runs on a blank image on its own
    device.
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
    training = [module for module in model.modules() if module.training]
    try:
        return _measured(model.eval(), size)
    finally:
        for module in training:
            module.training = True


def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Returns the multiply-adds of one forward pass of any module, counted as in `Cost.multiply_adds`."""
    return _counted(module, *inputs)[0][""]


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
    return _tree(model, "", *_counted(model, batch))


def _counted(module: nn.Module, *inputs: Any) -> tuple[Counter[str], Counter[str]]:
    """Multiply-adds and activations by the dotted name of the modules that were called, "" for `module`."""
    mappings: dict[Any, Any] = {_aten._embedding_bag: _embedding_bag, _aten._embedding_bag_forward_only: _embedding_bag}
    counter = FlopCounterMode(display=False, custom_mapping=mappings)
    activations = _Activations(counter)
    trained = [p for p in module.parameters() if p.requires_grad]
    # Attention written as matrix products is counted on every device; torch's counter lacks some fused kernels.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter in trained:  # torch's counter hooks into the graph of any tensor that requires a gradient
            parameter.requires_grad_(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), activations, counter:
            module(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in trained:
            parameter.requires_grad_(True)
    root = type(module).__name__
    sums = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return _relative(sums, root), _relative(activations.counts, root)


def _relative(counts: Mapping[str, int], root: str) -> Counter[str]:
    """The counts by names relative to the root module, as in `named_modules`."""
    return Counter({name.removeprefix(root).removeprefix("."): n for name, n in counts.items() if name != "Global"})


class _Activations(TorchDispatchMode):
    """Counts the outputs of convolutions and linear layers for each module that runs."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.tracker = counter.mod_tracker
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _PROJECTIONS:
            for name in set(self.tracker.parents):
                self.counts[name] += out.numel()
        return out


def _embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """FLOPs of a weighted sum of rows, by which deformable attention samples values. Arguments are shapes."""
    return 0 if per_sample_weights is None else 2 * indices.numel() * weight[1]


def _tree(module: nn.Module, name: str, work: Counter[str], activations: Counter[str]) -> Cost:
    """Returns the tree of costs. A module that is not called itself, such as a list, has the sums of its children."""
    prefix = f"{name}." if name else ""
    children = tuple(_tree(child, f"{prefix}{key}", work, activations) for key, child in module.named_children())
    return Cost(
        name,
        sum(p.numel() for p in module.parameters()),
        sum(p.numel() for p in module.parameters() if p.requires_grad),
        work[name] if name in work else sum(child.multiply_adds for child in children),
        activations[name] if name in activations else sum(child.activations for child in children),
        children,
    )
