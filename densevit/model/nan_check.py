"""NaN in a model's outputs is an error, because predictions would have no objects, or the first class everywhere.

The error names the heads and the first layer with NaN. Infinite values are no error: masked logits have them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves  # noqa: PLC2701  # torch has no public name for it

from densevit.errors import WeightsError, listed
from densevit.interfaces import Batch, Outputs


@contextmanager
def nan_checked(model: Any) -> Iterator[None]:
    """Checks the outputs of the last `infer` of a model at its end: there, predictions have been copied to the CPU, and
    a GPU is not waited for once more. Raises WeightsError for NaN, also in place of an error that NaN caused.

    model: what predicts; an exported file checks its outputs itself.
    """
    unread: list[NanCheck] = getattr(model, "unread_nan_checks", [])
    unread.clear()
    try:
        yield
    finally:
        while unread:
            unread.pop().read()


class NanCheck:
    """Calls a model and checks its outputs for NaN: on the CPU after each call; on other devices at the end of the
    surrounding `nan_checked`, or in `read`.

    model: a `DenseModel`, which gets it as its unread check; this has the model's attributes. batch, infer: the batch,
    and what `infer(self, batch)` repeats to find the layer after a later check; None: nothing.
    """

    def __init__(
        self, model: Any, batch: Batch | None = None, infer: Callable[[Any, Batch], Any] | None = None
    ) -> None:
        self.model, self.batch, self.infer = model, batch, infer
        self.waits = False  # whether each call is checked on any device
        self._largest: dict[str, Tensor] = {}  # by head

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of copies and pickles
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> dict[str, Outputs]:
        outputs: dict[str, Outputs] = self.model(batch, heads)
        for name, values in outputs.items():
            if (number := largest(values)) is not None:
                self._largest[name] = torch.maximum(self._largest.get(name, number), number)
        on_cpu = all(type(x) is Tensor and x.device.type == "cpu" for x in self._largest.values())  # and not traced
        if (self.waits or on_cpu) and (names := self._heads_with_nan()):
            raise self._error(names, batch)
        self.model.unread_nan_checks[:] = [] if on_cpu else [self]
        return outputs

    def read(self) -> None:
        """Raises WeightsError if outputs since the last check have NaN. Waits for the device."""
        if names := self._heads_with_nan():
            if self.infer is not None and self.batch is not None:
                self.waits = True
                self.infer(self, self.batch)  # raises in the call whose outputs have NaN
            raise self._error(names)

    def _heads_with_nan(self) -> list[str]:
        """The heads whose outputs since the last check have NaN."""
        values, self._largest = self._largest, {}
        is_nan = torch.stack([*values.values()]).isnan().tolist() if values else []
        return [name for name, value in zip(values, is_nan, strict=True) if value]

    def _error(self, heads: Sequence[str], batch: Batch | None = None) -> WeightsError:
        """batch: that of the call, whose images are run again one by one to find the layer; None: unknown."""
        layers, images = list[str](), list[Batch]()
        if batch is not None and not any(isinstance(x, DTensor) for x in self.model.parameters()):
            with _first_nan(self.model) as layers:
                images = [image for image in _single_images(batch) if has_nan(self.model(image, heads))]
        targets = [target for image in images for target in image["targets"] if "image_id" in target]
        ids = [target["image_id"] for target in targets or (self.batch or {"targets": []})["targets"]]
        tensors = chain(self.model.named_parameters(), self.model.named_buffers())
        names = [name for name, x in tensors if has_nan(x)]
        images_text = f" for image {listed(map(repr, ids), 16, ' ...')}" if ids else ""
        first = f", first in the output of {layers[0]}" if layers else ""
        reason = "No weight is NaN. Fix: compute in float32, as a layer overflows in float16; or check the pixels."
        if names:
            reason = f"Weights are NaN: {listed(names, 3)}. Fix: load other weights, or train again."
        return WeightsError(
            f"{', '.join(f'heads.{name}' for name in heads)}: outputs are NaN{images_text}{first}. {reason}"
        )


def largest(values: Any) -> Tensor | None:
    """The largest number in nested outputs, NaN if one of them is, on their device; None without numbers."""
    tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]
    return torch.stack([x.detach().amax().float() for x in tensors]).amax() if tensors else None


def has_nan(values: Any) -> bool:
    number = largest(values)
    return number is not None and bool(number.isnan())


def _single_images(batch: Batch) -> Iterator[Batch]:
    for i in range(len(batch["images"])):
        part = slice(i, i + 1)
        images, padding_mask = batch["images"][part], batch["padding_mask"][part]
        yield {"images": images, "padding_mask": padding_mask, "targets": batch["targets"][part]}


@contextmanager
def _first_nan(model: nn.Module) -> Iterator[list[str]]:
    """A list to which the first module whose output has NaN is added, in order of execution. Compiled modules run
    without compilation, because their graphs do not call hooks."""
    layers: list[str] = []

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not layers and has_nan(output):
            layers.append(f"{name} ({type(module).__name__})")

    with ExitStack() as hooks:
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(partial(record, name)).remove)
        yield layers
