"""The D-FINE head: options, losses, padding, autocast, export and the interface of heads."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit.testing import check_head
from densevit_heads.dfine import Dfine
from densevit_heads.dfine.attention import UnprojectedDeformableAttention
from densevit_heads.dfine.encoder_blocks import RepNcspElan
from densevit_heads.rtdetr.augmentation import PlainStretch
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions
from tests.heads.rtdetr.test_rtdetr import CHANNELS, CLASSES, STRIDES, make_batch, step

SMALL = {
    "num_queries": 7,
    "encoder": HybridEncoderOptions(16, 24, 0.5),
    "transformer": Transformer(16, 2, 1, 3, 24, 0.0),
    "fusion_blocks": 1,
    "num_points": (2, 3, 1),
    "contrastive_denoising": 10,
}
MODES: dict[str, dict[str, Any]] = {
    "D-FINE": {},
    "another width": {"transformer": Transformer(32, 2, 1, 2, 24, 0.0)},
    "layers in training only": {"training_layers": 2},
    "wide layers in training only": {"training_layers": 2, "layer_scale": 2},
    "one layer": {"transformer": Transformer(16, 2, 0, 1, 24, 0.0), "num_points": (3, 3)},
    "more queries than cells": {"num_queries": 90},
    "no denoising, other bins": {"contrastive_denoising": 0, "num_bins": 8, "reg_scale": 8.0},
}
every_mode = pytest.mark.parametrize("options", MODES.values(), ids=MODES)
TERMS = ["label", "l1", "giou", "fgl", "auxiliary", "proposals", "ddf"]


def make_head(classes: list[Class] = CLASSES, **options: Any) -> Dfine:
    torch.manual_seed(0)
    head = Dfine(CHANNELS, STRIDES, classes, **SMALL | options)
    with torch.no_grad():  # no layer starts with weights of zero, which would hide errors
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


@every_mode
def test_trains_on_images_with_and_without_objects(options: dict[str, Any]):
    head = make_head(**options).train()
    outputs, losses = step(head, *make_batch([3, 0, 5]))
    cells = sum([6 * 8, 3 * 4, 2 * 2][: len(options.get("num_points", (1, 1, 1)))])
    Q, L, K = min(head.num_queries, cells), len(head.decoder.layers), len(CLASSES)
    assert outputs["logits"].shape == (3, Q, K) and outputs["boxes"].shape == (3, Q, 4)
    assert outputs["layers"].logits.shape == (L + 2, 3, Q, K) and outputs["layers"].boxes.shape == (L + 2, 3, Q, 4)
    assert outputs["layers"].corners.shape == (L, 3, Q, 4 * (options.get("num_bins", 32) + 1))
    assert all(losses[name] > 0 for name in ("l1", "giou", "proposals")) and (losses["ddf"] > 0) == (L > 1)
    for name, parameter in head.named_parameters():
        alike = name.endswith("key.bias")  # a softmax ignores what is added to all keys
        assert alike or parameter.grad.abs().max() > 1e-10, f"{name} has no gradient"


@every_mode
def test_loss_terms_do_not_depend_on_what_is_labelled(options: dict[str, Any]):
    head = make_head(**options).train()
    expected = TERMS + ["denoising"] * (head.denoising is not None)
    for counts in ([3, 0, 5], [0, 0, 0], [2, None, 1], [0, None, 0], [None, None, None]):
        _, losses = step(head, *make_batch(counts))
        assert list(losses) == expected
        if not any(count is not None for count in counts):
            assert all(term == 0 for term in losses.values())
        elif not any(counts):
            assert losses["l1"] == losses["giou"] == losses["fgl"] == 0 and losses["label"] > 0


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


@pytest.mark.parametrize("scale", [1, 2])
def test_layers_of_the_training_change_no_prediction(scale: int):
    """The authors' `eval_idx`: predictions are those of the layer before, in training as in evaluation."""
    head = make_head(training_layers=2, layer_scale=scale, contrastive_denoising=0)
    features, mask, _ = make_batch([1, 1])
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, assignment, misc]
    trained, evaluated = head.train()(features, mask), head.eval()(features, mask)
    assert len(trained["layers"].corners) == 5 and len(evaluated["layers"].corners) == 3
    for name in ("logits", "boxes"):
        torch.testing.assert_close(trained[name], evaluated[name])
    before = head(features, mask)["boxes"]
    with torch.no_grad():
        for layer in head.decoder.layers[3:]:
            for parameter in layer.parameters():
                parameter.add_(1.0)
    torch.testing.assert_close(head(features, mask)["boxes"], before)


def test_the_box_loss_of_a_layer_reaches_the_distributions_of_all_layers_before():
    """Logits of distributions add up over the layers, with their gradient."""
    head = make_head(contrastive_denoising=0).train()
    features, mask, _ = make_batch([1])
    boxes = head(features, mask)["layers"].boxes
    parameters = [layer.last.weight for layer in head.decoder.corner_heads]  # type: ignore[union-attr]
    gradients = torch.autograd.grad(boxes[1].sum(), parameters, allow_unused=True)
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [True, True, False]
    initial = head(features, mask)["layers"].initial
    with pytest.raises(RuntimeError, match="unused"):
        torch.autograd.grad(head(features, mask)["layers"].boxes[1].sum(), [initial])


@every_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_stay_in_full_precision_under_autocast(options: dict[str, Any], dtype: torch.dtype):
    head = make_head(**options).train()
    with torch.autocast("cpu", dtype=dtype):
        outputs, _ = step(head, *make_batch([3, 0, 5]))
    assert outputs["boxes"].dtype == outputs["layers"].corners.dtype == torch.float32


@pytest.mark.integration
@every_mode
def test_torch_export_has_the_same_outputs_and_no_layers_of_the_training(options: dict[str, Any]):
    head = make_head(**{"transformer": Transformer(16, 2, 1, 2, 24, 0.0), **options}).eval()
    features, mask, _ = make_batch([1, 1])

    class Predicting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, features: list[Tensor], mask: Tensor) -> dict[str, Tensor]:
            return self.head.exported(self.head(features, mask), (48, 64))

    expected = Predicting()(features, mask)
    program = torch.export.export(Predicting(), (features, mask))
    found = program.module()(features, mask)
    for name in ("boxes", "scores"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-5)
    names = program.graph_signature.inputs_to_parameters
    used = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    assert not any(".denoising." in name for name in used)
    last = head.decoder.predicting - 1
    for part in ("label_heads", "qualities"):
        layers = {int(name.split(".")[3]) for name in used if name.startswith(f"head.decoder.{part}.")}
        assert layers == {last}, part
    assert max(int(name.split(".")[3]) for name in used if name.startswith("head.decoder.layers.")) == last


@torch.no_grad()
def test_merged_fusion_blocks_give_the_same_maps():
    block = RepNcspElan(12, 8, 5, 2).eval()
    torch.manual_seed(0)
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith(("running_var", "1.weight")) else tensor.normal_(0, 0.3)
    x = torch.randn(2, 12, 7, 9)
    expected, parameters = block(x), sum(p.numel() for p in block.parameters())
    merged = 0
    for branch in block.branches:
        blocks = branch[0].blocks  # type: ignore[index, union-attr]
        for i, vgg in enumerate(blocks):
            blocks[i] = vgg.merged()
            merged += 1
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
    assert merged == 4 and sum(p.numel() for p in block.parameters()) < parameters


@pytest.mark.parametrize("size", [(1, 1), (9, 70), (17, 16)])
def test_maps_of_one_cell_train(size: tuple[int, int]):
    head = make_head().train()
    features, mask, targets = make_batch([1, 1], [size, size])
    for target in targets:
        target["boxes"] = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    outputs, _ = step(head, features, mask, targets)
    assert len(head.eval().predict(outputs, targets)[0]["boxes"]) == outputs["boxes"].shape[1]


def test_losses_in_evaluation_have_the_same_terms():
    head = make_head(training_layers=1).eval()
    features, mask, targets = make_batch([3, 0, 5])
    losses = head.loss(head(features, mask), targets, LossContext())
    assert list(losses) == [*TERMS, "denoising"] and losses["denoising"] == 0 and losses["fgl"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": (4, 0, 4)}, "num_points is 0; it must be at least 1."),
        ({"num_bins": 7}, "num_bins is 7; it must be even and at least 4."),
        ({"reg_scale": 0.0}, "reg_scale is 0; it must be above 0."),
        ({"training_layers": -1}, "training_layers is -1; it must be at least 0."),
        ({"layer_scale": 0}, "layer_scale is 0; it must be at least 1."),
        ({"fusion_blocks": 0}, "fusion_blocks is 0; it must be at least 1."),
        ({"contrastive_denoising": -1}, "contrastive_denoising is -1; it must be at least 0."),
        ({"num_queries": 0}, "num_queries is 0; it must be at least 1."),
        ({"min_stride": 32}, "min_stride is 32, but the coarsest feature has stride 16."),
        (
            {"encoder": HybridEncoderOptions(16, 24, 0.1)},
            "encoder.expansion is 0.1; expected at least one of 8 channels",
        ),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        make_head(**options)
    assert message in str(error.value)


@pytest.mark.integration
def test_it_passes_the_checks_of_heads():
    """With two levels: the sizes of tokens of all levels are sums of products, with which an export is slow."""
    small = {**SMALL, "transformer": Transformer(16, 2, 1, 2, 24, 0.0), "min_stride": 16, "num_points": (2, 1)}
    check_head(functools.partial(Dfine, **small))


def test_every_attention_is_deterministic_by_option():
    for deterministic in (False, True):
        head = make_head(deterministic=deterministic, training_layers=1)
        attentions = [m for m in head.modules() if isinstance(m, UnprojectedDeformableAttention)]
        assert [m.deterministic for m in attentions] == [deterministic] * 4


def test_plain_stretch_keeps_the_whole_image():
    transforms = PlainStretch((32, 64))
    assert transforms.recoloring == "none" and transforms.evaluation_size(48, 90) == (32, 64)
    frame = transforms.training_frame_with_boxes(48, 90, np.random.default_rng(0))
    assert frame.window == (0, 0, 48, 90) and frame.size == (32, 64)
