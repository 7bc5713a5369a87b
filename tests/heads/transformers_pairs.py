"""What comparisons of heads with transformers' models share: weights and gradients by our names, and a batch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Losses, Targets
from densevit.layouts import find
from densevit.losses.boxes import to_corners
from densevit_checkpoints.key_mapping import translate

CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0)) for i in range(5)]


def renamed(values: Mapping[str, Tensor | None], layout: str, task: str) -> dict[str, Tensor]:
    """The tensors of transformers' head by the names of ours: those of the layout by which its files are read."""
    found = find(layout)
    signature_keys = tuple(
        key for key in found.signature_keys if not re.search(r"backbone|scale|pixel_level_module\.encoder", key)
    )
    given = {key: value for key, value in values.items() if value is not None}
    translation = translate(given, replace(found, signature_keys=signature_keys))
    assert not translation.errors
    part = f"heads.{task}."
    return {key.removeprefix(part): x for key, x in translation.tensors.items() if key.startswith(part)}


class GivenFeatures(nn.Module):
    """A backbone of transformers that returns given features. output: from them and the pixel mask."""

    def __init__(self, features: list[Tensor], output: Callable[[list[Tensor], Tensor | None], Any]) -> None:
        super().__init__()
        self.features, self.output = features, output

    def forward(self, images: Tensor, pixel_mask: Tensor | None = None) -> Any:
        return self.output(self.features, pixel_mask)


def masks_of(features: list[Tensor], pixel_mask: Tensor) -> list[Tensor]:
    """The pixel mask at the cells of each feature, as transformers resizes it."""
    return [F.interpolate(pixel_mask[None].float(), size=x.shape[-2:])[0].to(torch.bool) for x in features]


def copies(features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Twice the same features, with gradients."""
    return [x.clone().requires_grad_() for x in features], [x.clone().requires_grad_() for x in features]


def same_losses(losses: Losses, expected: Mapping[str, Tensor], tolerance: float = 1e-4, near: float = 1e-6) -> None:
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=near)


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@torch.no_grad()
def randomise(module: nn.Module, spread: float, others: Mapping[str, float]) -> None:
    """All parameters, also those that start as 0 or 1. others: spreads of those whose names match a pattern."""
    for name, parameter in module.named_parameters():
        own = next((value for pattern, value in others.items() if re.search(pattern, name)), spread)
        norm = re.search(r"norm\.weight|(input_proj(ections)?\.\d|adapter_1|layer_1)\.1\.weight", name)
        parameter.copy_(own * torch.randn_like(parameter) + (1.0 if norm else 0.0))


def keep_statistics(*modules: nn.Module) -> None:
    """Batch norms have their running statistics, also in training."""
    for module in (own for each in modules for own in each.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, assignment, misc]


def same_gradients(
    wanted: Mapping[str, Tensor],
    ours: nn.Module,
    features: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ()),
    rounding: str = r"attention\.key\.bias",
    least: float = 0.0,
    tolerance: float = 1e-4,
) -> None:
    """To `tolerance` of the largest in each tensor.

    wanted: those of transformers' parameters by the names of ours. features: transformers' and ours.
    rounding: names of tensors whose gradients are rounding errors, such as the bias of keys, which a softmax does not
    see. least: the scale of tensors with smaller gradients; without it, every tensor must have one.
    """
    found = {name: x for name, x in gradients(ours).items() if x is not None}
    wanted = {**wanted} | {f"features {i}": x.grad for i, x in enumerate(features[0]) if x.grad is not None}
    found |= {f"features {i}": x.grad for i, x in enumerate(features[1]) if x.grad is not None}
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        own, scale = found[name], max(float(gradient.abs().max()), least)
        if re.search(rounding, name):
            assert max(scale, float(own.abs().max())) < max(1e-5, 2 * least), name
        else:
            assert scale > 1e-5, f"{name} has no gradient to compare"
            assert float((gradient - own).abs().max()) <= tolerance * scale, name


def scene(
    sizes: Sequence[tuple[int, int]], counts: Sequence[int], num_classes: int, degenerate: bool = False
) -> tuple[Tensor, list[dict[str, Tensor]], list[Targets]]:
    """The padding mask of images of these sizes, and their random objects for transformers and for ours.

    degenerate: the first box of the image with the most objects has no width.
    """
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    padding_mask = torch.ones(len(sizes), H, W, dtype=torch.bool)
    labels: list[dict[str, Tensor]] = []
    targets: list[Targets] = []
    for i, ((h, w), count) in enumerate(zip(sizes, counts, strict=True)):
        padding_mask[i, :h, :w] = False
        boxes = torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.1 + 0.4 * torch.rand(count, 2)], dim=1)
        if degenerate and count == max(counts):
            boxes[0, 2] = 0.0
        classes = torch.randint(num_classes, (count,))
        labels.append({"class_labels": classes, "boxes": boxes})
        absolute = to_corners(boxes) * torch.tensor([w, h, w, h])
        targets.append({"boxes": absolute, "labels": classes, "size": (h, w), "image_id": i})
    return padding_mask, labels, targets
