"""The RT-DETR head: options, losses, padding, autocast, export and the interface of heads."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Losses, Outputs, Targets
from densevit.layers.deformable_attention import MultiScaleDeformableAttention
from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit.testing import check_head
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
CHANNELS, STRIDES = (6, 10), (8, 16)
SIZES = [(48, 64), (40, 56), (48, 32)]
SMALL = {
    "num_queries": 7,
    "encoder": HybridEncoderOptions(16, 24, 0.5),
    "transformer": Transformer(32, 2, 1, 3, 24, 0.0),
    "contrastive_denoising": 10,
}
MODES: dict[str, dict[str, Any]] = {
    "RT-DETR": {},
    "points per level": {"num_points": (3, 1, 2)},
    "discrete": {"sampling": "discrete"},
    "more queries than cells": {"num_queries": 90},
    "no denoising, no attention on the map": {
        "contrastive_denoising": 0,
        "transformer": Transformer(32, 2, 0, 2, 24, 0.0),
    },
}
every_mode = pytest.mark.parametrize("options", MODES.values(), ids=MODES)


def make_head(classes: list[Class] = CLASSES, **options: Any) -> RtDetr:
    torch.manual_seed(0)
    head = RtDetr(CHANNELS, STRIDES, classes, **SMALL | options)
    with torch.no_grad():  # no layer starts with weights of zero, which would hide errors
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def make_batch(
    counts: list[int | None], sizes: list[tuple[int, int]] = SIZES
) -> tuple[list[Tensor], Tensor, list[Targets]]:
    """Features, padding mask and targets; None is an unlabelled image."""
    sizes = sizes[: len(counts)]
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.ones(len(counts), H, W, dtype=torch.bool)
    features = [torch.randn(len(counts), c, -(-H // s), -(-W // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    targets: list[Targets] = []
    for i, (count, (h, w)) in enumerate(zip(counts, sizes, strict=True)):
        mask[i, :h, :w] = False
        targets.append({"image_id": i, "size": (h, w), "original_size": (2 * h, 2 * w)})
        if count is not None:
            low = torch.rand(count, 2) * torch.tensor([w - 12, h - 12]).clamp(min=0)
            boxes = torch.cat([low, low + 3 + 9 * torch.rand(count, 2)], dim=1)
            targets[-1] |= {"boxes": boxes, "labels": torch.randint(len(CLASSES), (count,))}
    return features, mask, targets


def step(head: RtDetr, features: list[Tensor], mask: Tensor, targets: list[Targets]) -> tuple[Outputs, Losses]:
    """Forward and backward; every trained parameter has a finite gradient after it."""
    outputs = head(features, mask, targets)
    losses = head.loss(outputs, targets, LossContext())
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    head.zero_grad()
    total.backward()
    for name, parameter in head.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name} is not connected to the loss"
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return outputs, losses


@every_mode
def test_trains_on_images_with_and_without_objects(options: dict[str, Any]):
    head = make_head(**options).train()
    outputs, losses = step(head, *make_batch([3, 0, 5]))
    Q, L, K = min(head.num_queries, 6 * 8 + 3 * 4 + 2 * 2), len(head.decoder), len(CLASSES)
    assert outputs["logits"].shape == (3, Q, K) and outputs["boxes"].shape == (3, Q, 4)
    assert outputs["layers"][0].shape == (L, 3, Q, K) and outputs["layers"][1].shape == (L, 3, Q, 4)
    assert all(losses[name] > 0 for name in ("l1", "giou", "proposals"))
    for name, parameter in head.named_parameters():
        alike = name.endswith("key.bias") or not parameter.requires_grad  # a softmax ignores what is added to all keys
        assert alike or parameter.grad.abs().max() > 1e-9, f"{name} has no gradient"


@every_mode
def test_loss_terms_do_not_depend_on_what_is_labelled(options: dict[str, Any]):
    head = make_head(**options).train()
    expected = ["label", "l1", "giou", "auxiliary", "proposals"]
    expected += ["denoising"] * (head.denoising is not None)
    for counts in ([3, 0, 5], [0, 0, 0], [2, None, 1], [0, None, 0], [None, None, None]):
        _, losses = step(head, *make_batch(counts))
        assert list(losses) == expected
        if not any(count is not None for count in counts):
            assert all(term == 0 for term in losses.values())
        elif not any(counts):
            assert losses["l1"] == 0 and losses["giou"] == 0 and losses["label"] > 0


@every_mode
def test_features_of_padding_change_no_prediction(options: dict[str, Any]):
    head = make_head(**options).eval()
    features, mask, _ = make_batch([1, 1, 1])
    changed = []
    for x, stride in zip(features, STRIDES, strict=True):
        padding = mask[:, ::stride, ::stride]
        changed.append(torch.where(padding[:, None], 50.0, x))
    for name in ("logits", "boxes"):
        torch.testing.assert_close(head(features, mask)[name], head(changed, mask)[name])


def test_boxes_are_relative_to_the_image_without_padding():
    """Cells of padding are selected last, and the initial boxes are centred on cells of the image."""
    head = make_head(num_queries=4 * 5 + 2 * 3 + 2 * 2).eval()  # the cells of the second image
    nn.init.zeros_(head.queries.box_head.last.weight)
    nn.init.zeros_(head.queries.box_head.last.bias)
    features, mask, _ = make_batch([1, 1], [(48, 64), (32, 40)])
    boxes = head(features, mask)["proposals"][1][1]
    inside = boxes[(boxes < 1).all(-1)]
    assert len(inside) == len(boxes)
    for level, (rows, columns) in enumerate([(4, 5), (2, 3), (2, 2)]):
        of_level = inside[(inside[:, 2] - 0.05 * 2**level).abs() < 1e-4]
        assert len(of_level) == rows * columns
        assert of_level[:, :2].max() < 1.0


def test_a_layer_learns_from_the_boxes_of_the_next():
    """Look forward twice: the box of a layer moves with the offsets of the layer before, but not with earlier ones."""
    head = make_head(contrastive_denoising=0).train()
    features, mask, _ = make_batch([1])
    boxes = head(features, mask)["layers"][1]
    parameters = [layer.last.weight for layer in head.box_heads]  # type: ignore[union-attr]
    gradients = torch.autograd.grad(boxes[2].sum(), parameters)
    assert [bool(gradient.any()) for gradient in gradients] == [False, True, True]


@every_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_stay_in_full_precision_under_autocast(options: dict[str, Any], dtype: torch.dtype):
    head = make_head(**options).train()
    with torch.autocast("cpu", dtype=dtype):
        outputs, _ = step(head, *make_batch([3, 0, 5]))
    assert outputs["boxes"].dtype == torch.float32 and outputs["logits"].dtype == dtype


@pytest.mark.integration
@every_mode
def test_torch_export_gives_the_same_outputs(options: dict[str, Any]):
    head = make_head(**{"transformer": Transformer(32, 2, 1, 2, 24, 0.0), **options}).eval()
    features, mask, _ = make_batch([1, 1])
    expected = head(features, mask)
    found = torch.export.export(head, (features, mask)).module()(features, mask)
    for name in ("logits", "boxes"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.integration
def test_compiled_training_gives_the_same_loss():
    options = {"contrastive_denoising": 0, "transformer": Transformer(32, 2, 1, 2, 24, 0.0)}
    head = make_head(**options).train()
    features, mask, targets = make_batch([3, 0, 5])
    expected = head.loss(head(features, mask), targets, LossContext())
    head = make_head(**options).train()
    compiled = torch.compile(head, backend="aot_eager")
    found = head.loss(compiled(features, mask), targets, LossContext())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(1, 1), (9, 70), (17, 16)])
def test_maps_of_one_cell_train(size: tuple[int, int]):
    head = make_head().train()
    features, mask, targets = make_batch([1, 1], [size, size])
    for target in targets:
        target["boxes"] = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    outputs, _ = step(head, features, mask, targets)
    assert len(head.eval().predict(outputs, targets)[0]["boxes"]) == outputs["boxes"].shape[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": (4, 4)}, "num_points has 2 numbers; expected one, or one for each of 3 levels."),
        ({"num_points": (4, 0, 4)}, "num_points[1] is 0; it must be at least 1."),
        ({"contrastive_denoising": -1}, "contrastive_denoising is -1; it must be at least 0."),
        ({"num_queries": 0}, "num_queries is 0; it must be at least 1."),
        ({"num_levels": 0}, "num_levels is 0; it must be at least 1."),
        ({"min_stride": 32}, "min_stride is 32, but the coarsest feature has stride 16."),
        ({"encoder": HybridEncoderOptions(18)}, "width is 18; it must be a multiple of 4"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        make_head(**options)
    assert message in str(error.value)


def test_an_expansion_without_channels_is_refused():
    with pytest.raises(ValueError, match="encoder.expansion is 0.01; expected at least one of 16 channels"):
        HybridEncoderOptions(16, 24, 0.01)


@pytest.mark.integration
@pytest.mark.parametrize(("sampling", "skip"), [("grid_sample", ()), ("discrete", ("export",))])
def test_it_passes_the_checks_of_heads(sampling: str, skip: tuple[str, ...]):
    """Discrete sampling is exported above, and to ONNX in `tests/exporting`."""
    options = {**SMALL, "transformer": Transformer(32, 2, 1, 1, 24, 0.0), "num_levels": 2}
    check_head(functools.partial(RtDetr, **options, sampling=sampling), skip=skip)


def test_every_attention_is_deterministic_by_option():
    for deterministic in (False, True):
        head = make_head(deterministic=deterministic)
        attentions = [m for m in head.modules() if isinstance(m, MultiScaleDeformableAttention)]
        assert [m.deterministic for m in attentions] == [deterministic] * 3
