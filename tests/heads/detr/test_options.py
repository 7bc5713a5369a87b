"""Every option of the heads `detr`, `dab_detr` and `ddq`: losses, gradients and invariances."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Losses, Outputs, Targets
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import Denoising
from densevit.set_prediction.head import SetPredictionHead
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.dab_detr.extensions import Extensions
from densevit_heads.ddq import Ddq
from densevit_heads.detr import Detr

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
CHANNELS, STRIDES = (6, 10), (8, 16)
SIZES = [(48, 64), (40, 56), (48, 32)]
MAL = {"kind": DabDetr, "classification": "mal"}
DISTINCT = {"kind": Ddq, "dense_loss": 1.0, "fusion_blocks": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "detr": {},
    "learned positions": {"positions": "learned"},
    "pre-norm": {"pre_norm": True},
    "last layer only": {"auxiliary_losses": False},
    "one layer": {"encoder_layers": 1, "decoder_layers": 1},
    "no encoder": {"encoder_layers": 0},
    "dab_detr": {"kind": DabDetr},
    "varifocal": {"kind": DabDetr, "classification": "varifocal"},
    "mal": MAL,
    "fused memory": {"kind": DabDetr, "stride": 8},
    "coarse fused memory": {"kind": DabDetr, "stride": 16},
    "fusion blocks": {"kind": DabDetr, "stride": 8, "fusion_blocks": 2},
    "dense": {"kind": DabDetr, "dense_loss": 1.0},
    "position bias": {"kind": DabDetr, "position_bias": True},
    "denoising": {"kind": DabDetr, "denoising": 2},
    "contrastive denoising": {"kind": DabDetr, "contrastive_denoising": 10},
    "contrastive denoising, mal": {**MAL, "contrastive_denoising": 10},
    "look forward twice": {**MAL, "look_forward_twice": True},
    "two stages": {**MAL, "two_stage": True},
    "two stages, more queries than cells": {**MAL, "two_stage": True, "num_queries": 50, "denoising": 1},
    "all": {
        **MAL, "stride": 8, "fusion_blocks": 1, "position_bias": True, "two_stage": True, "denoising": 3,
        "dense_loss": 1.0,
    },
    "ddq": {**DISTINCT, "classification": "focal", "stride": 16, "position_bias": False},
    "ddq, more queries than cells": {**DISTINCT, "duplicate_iou": 0.5, "stride": 16, "num_queries": 50},
    "ddq, fusion blocks": {"kind": Ddq},
}  # fmt: skip
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


LAYERS = {"width": 16, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 3, "feedforward": 24, "dropout": 0.0}


def new_head(
    channels: tuple[int, ...], strides: tuple[int, ...], classes: list[Class], **options: Any
) -> SetPredictionHead:
    """options: also `kind`, the class, the fields of `Transformer`, and for DAB-DETR those of `Extensions`."""
    transformer = Transformer(**{name: options.pop(name, value) for name, value in LAYERS.items()})
    kind = options.pop("kind", Detr)
    if kind is DabDetr:
        extensions = {field.name: options.pop(field.name) for field in fields(Extensions) if field.name in options}
        options["extensions"] = Extensions(**extensions)
    return kind(channels, strides, classes, **{"num_queries": 7, "transformer": transformer, **options})


def make_head(classes: list[Class] = CLASSES, **options: Any) -> Any:
    head = new_head(CHANNELS, STRIDES, classes, **options)
    with torch.no_grad():  # no layer starts as the identity, which would hide errors
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def make_batch(counts: list[int | None], K: int = len(CLASSES)) -> tuple[list[Tensor], Tensor, list[Targets]]:
    """Features, padding mask and targets; None is an unlabelled image."""
    sizes = SIZES[: len(counts)]
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.ones(len(counts), H, W, dtype=torch.bool)
    features = [torch.randn(len(counts), c, -(-H // s), -(-W // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    targets: list[Targets] = []
    for i, (count, (h, w)) in enumerate(zip(counts, sizes, strict=True)):
        mask[i, :h, :w] = False
        targets.append({"image_id": i, "size": (h, w), "original_size": (2 * h, 2 * w)})
        if count is not None:
            low = torch.rand(count, 2) * torch.tensor([w - 12, h - 12])
            boxes = torch.cat([low, low + 3 + 9 * torch.rand(count, 2)], dim=1)
            targets[-1] |= {"boxes": boxes, "labels": torch.randint(K, (count,))}
    return features, mask, targets


def step(
    head: SetPredictionHead, features: list[Tensor], mask: Tensor, targets: list[Targets]
) -> tuple[Outputs, Losses]:
    """Forward and backward; every parameter has a finite gradient after it."""
    outputs = head(features, mask, targets)
    losses = head.loss(outputs, targets, LossContext())
    total = sum(losses.values())
    assert isinstance(total, Tensor) and total.isfinite()
    head.zero_grad()
    total.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, f"{name} is not connected to the loss"
        assert parameter.grad.isfinite().all(), name
    return outputs, losses


@every_option
def test_trains_on_images_with_and_without_objects(options: dict[str, Any]):
    head = make_head(**options).train()
    batch = make_batch([3, 0, 5])
    outputs, losses = step(head, *batch)
    fewer = isinstance(head, Ddq) or "two_stage" in options
    cells = 48 if options.get("stride", 8 if isinstance(head, Ddq) else 16) == 8 else 12
    Q = min(head.num_queries, cells) if fewer else head.num_queries
    K = len(CLASSES) + head.softmax
    assert outputs["logits"].shape == (3, Q, K) and outputs["boxes"].shape == (3, Q, 4)
    layers = len(head.decoder) + ("two_stage" in options)
    assert outputs["layers"][0].shape == (layers, 3, Q, K) and outputs["layers"][1].shape == (layers, 3, Q, 4)
    assert all(losses[name] > 0 for name in ("label", "l1", "giou"))
    without = [name for name, p in head.named_parameters() if p.grad is not None and p.grad.abs().max() < 1e-12]
    # Softmax ignores what is added to all keys; DETR's initial queries are all zero.
    alike = () if not isinstance(head, Detr) else ("decoder.0.self_attention.", "decoder.0.residuals.0.norm.weight")
    assert [n for n in without if not n.endswith("key.bias") and not n.startswith(alike)] == []


@every_option
def test_loss_terms_do_not_depend_on_what_is_labelled(options: dict[str, Any]):
    head = make_head(**options).train()
    expected = ["label", "l1", "giou"]
    expected += ["auxiliary"] * options.get("auxiliary_losses", True)
    expected += ["denoising"] * (getattr(head, "denoising", None) is not None)
    expected += ["dense"] * (getattr(head, "dense", None) is not None)
    for counts in ([3, 0, 5], [0, 0, 0], [2, None, 1], [0, None, 0], [None, None, None]):
        _, losses = step(head, *make_batch(counts))
        assert list(losses) == expected
    features, mask, targets = make_batch([3, 0, 5])
    assert list(head.eval().loss(head(features, mask), targets, LossContext())) == expected


@every_option
def test_an_unlabelled_batch_has_zero_loss(options: dict[str, Any]):
    head = make_head(**options).train()
    _, losses = step(head, *make_batch([None, None, None]))
    assert all(term.item() == 0 for term in losses.values())
    assert all(parameter.grad.abs().max() == 0 for parameter in head.parameters())


@every_option
def test_an_unlabelled_image_is_left_out(options: dict[str, Any]):
    """The losses equal those of a batch without it, except for batch norm statistics."""
    head = make_head(**{key: value for key, value in options.items() if "denoising" not in key}).train()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    features, mask, targets = make_batch([3, 4, 2])
    targets[1] = {key: value for key, value in targets[1].items() if key not in ("boxes", "labels")}
    some = [0, 2]
    fewer = [x[some] for x in features], mask[some], [targets[i] for i in some]
    _, losses = step(head, features, mask, targets)
    gradients = {name: parameter.grad.clone() for name, parameter in head.named_parameters()}
    _, expected = step(head, *fewer)
    for name, term in losses.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-4, atol=1e-5)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@every_option
def test_predictions_depend_only_on_the_image(options: dict[str, Any]):
    """Not on targets, other images of the batch, or randomness."""
    head = make_head(**{**options, "dropout": 0.3}).eval()
    features, mask, targets = make_batch([3, 0, 5])
    together = head(features, mask, targets)
    for i in range(3):
        alone = head([x[i : i + 1] for x in features], mask[i : i + 1])
        torch.testing.assert_close(alone["logits"][0], together["logits"][i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone["boxes"][0], together["boxes"][i], rtol=1e-4, atol=1e-5)
    assert "denoising" not in together and "dense" not in together
    found = head.predict(together, targets)
    bare = [{"size": target["size"], "original_size": target["original_size"]} for target in targets]
    for own, again in zip(found, head.predict(head(features, mask), bare), strict=True):
        assert all(torch.equal(own[key], again[key]) for key in ("boxes", "scores", "labels"))


@every_option
def test_one_class_and_one_feature_are_enough(options: dict[str, Any]):
    stride = {"stride": 8} if "stride" in options else {}
    head: Any = new_head((6,), (8,), CLASSES[:1], **{"num_queries": 5, **options, **stride})
    features, mask, targets = make_batch([3, 0, 5], K=1)
    step(head.train(), features[:1], mask, targets)
    (found, *_) = head.eval().predict(head(features[:1], mask), targets)
    assert (found["labels"] == 0).all() and len(found["scores"]) == head(features[:1], mask)["logits"].shape[1]


@every_option
def test_trains_under_autocast_with_losses_in_fp32(options: dict[str, Any]):
    head = make_head(**options).train()
    features, mask, targets = make_batch([3, 0, 5])
    with torch.autocast("cpu", torch.bfloat16):
        outputs, losses = step(head, features, mask, targets)
    assert all(term.dtype == torch.float32 for term in losses.values())
    assert outputs["boxes"].dtype == torch.float32
    outside = head.loss(outputs, targets, LossContext())
    assert {name: term.item() for name, term in losses.items()} == {name: term.item() for name, term in outside.items()}


@pytest.mark.parametrize("stride", [8, 16, 1])
def test_the_memory_has_the_requested_stride(stride: int):
    """Or the finest available stride."""
    head = make_head(kind=DabDetr, stride=stride, dense_loss=1.0).train()
    features, mask, targets = make_batch([1, 1, 1])
    cells = {8: 6 * 8, 16: 3 * 4, 1: 6 * 8}[stride]
    assert head(features, mask, targets)["dense"][0].shape[1] == cells


def test_denoising_queries_do_not_change_the_object_queries():
    """With 2 and 5 objects in the batch, with none in one image, and with none at all."""
    head = make_head(**OPTIONS["all"]).train()
    for counts in ([2, 0, 5], [1, 1, 1], [0, 0, 0]):
        features, mask, targets = make_batch(counts)
        with_denoising, without = head(features, mask, targets), head(features, mask)
        assert "denoising" in with_denoising and "denoising" not in without
        for key in ("logits", "boxes"):
            torch.testing.assert_close(with_denoising[key], without[key], rtol=1e-4, atol=1e-5)


def test_a_denoising_group_attends_to_itself_and_the_object_queries():
    denoising = Denoising(width=8, num_classes=4, groups=3)
    objects = Objects.of(make_batch([2, 0, 1])[2], torch.device("cpu"))
    noised = denoising(objects, num_queries=4)
    assert (
        noised.contents.shape == (3, 6, 8)
        and noised.boxes.shape == (3, 6, 4)
        and noised.attention_bias.shape == (3, 1, 10, 10)
    )
    visible = [
        [[query for query, bias in enumerate(row) if bias == 0] for row in image[0]]
        for image in noised.attention_bias.tolist()
    ]
    object_queries = [6, 7, 8, 9]
    assert visible[0] == [[i, i + 1, *object_queries] for i in (0, 2, 4) for _ in range(2)] + [object_queries] * 4
    assert visible[1] == [object_queries] * 10  # padding only
    assert visible[2] == [[i, *object_queries] for i in (0, 2, 4) for _ in range(2)] + [object_queries] * 4
    found = sorted(zip(*(x.tolist() for x in (noised.image, noised.query, noised.target)), strict=True))
    first = [(0, query, target) for query, target in enumerate([0, 1, 0, 1, 0, 1])]
    assert found == [*first, (2, 0, 2), (2, 2, 2), (2, 4, 2)]


def test_noise_stays_within_its_limits():
    torch.manual_seed(0)
    denoising = Denoising(width=8, num_classes=4, groups=400, label_noise=0.5, box_noise=0.4)
    objects = Objects.of(make_batch([2])[2], torch.device("cpu"))
    noised = denoising(objects, num_queries=4)
    truth, boxes = objects.boxes[noised.target], noised.boxes[noised.image, noised.query]
    moved = ((boxes - truth).abs() / truth[:, 2:].repeat(1, 2)).amax(0)
    assert (moved > torch.tensor([0.15, 0.15, 0.3, 0.3])).all()
    assert (moved <= torch.tensor([0.2, 0.2, 0.4, 0.4]) + 1e-5).all()
    assert (boxes >= 0).all() and (boxes[:, 2:] > 0).all()
    embedded = noised.contents[noised.image, noised.query]
    wrong = (embedded != denoising.label_embedding.weight[objects.labels[noised.target]]).any(-1).float().mean()
    assert wrong.item() == pytest.approx(0.5 * 3 / 4, abs=0.06)  # one resampled label in four is the original


def test_a_denoising_query_learns_its_own_object():
    """Exact reconstructions cost almost nothing; reconstructions of another object are expensive."""
    head = make_head(**{**OPTIONS["all"], "classification": "focal"}).train()
    features, mask, targets = make_batch([2, 0, 3])
    outputs = head(features, mask, targets)
    objects = Objects.of(targets, mask.device)
    logits, boxes, target = outputs["denoising"]
    sure = torch.full_like(logits, -20.0).scatter(-1, objects.labels[target].expand(len(logits), -1)[..., None], 20.0)
    right = {**outputs, "denoising": (sure, objects.boxes[target].expand_as(boxes), target)}
    assert head.loss(right, targets, LossContext())["denoising"].item() == pytest.approx(0, abs=1e-4)
    wrong = {**outputs, "denoising": (sure, objects.boxes[target.roll(1)].expand_as(boxes), target)}
    assert head.loss(wrong, targets, LossContext())["denoising"].item() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": DabDetr, "fusion_blocks": 1}, "fusion_blocks need .* Fix: set stride"),
        ({"kind": DabDetr, "stride": 64}, "stride is 64, .* coarsest feature has stride 16"),
        ({"width": 18, "num_heads": 2}, "width is 18; .* multiple of 4"),
        ({"width": 16, "num_heads": 3}, "width is 16; it must be a multiple of num_heads, 3"),
        ({"decoder_layers": 0}, "decoder_layers is 0; it must be at least 1"),
        ({"num_queries": 0}, "num_queries is 0; it must be at least 1"),
        ({"kind": DabDetr, "denoising": -1}, "denoising is -1; it must be at least 0"),
        (
            {"kind": DabDetr, "denoising": 1, "contrastive_denoising": 3},
            "contrastive_denoising replaces .* denoising to 0",
        ),
        ({"classes": []}, "no classes"),
        ({"kind": Ddq, "duplicate_iou": 1.5}, "an IoU above 0, at most 1 is expected"),
        ({"kind": Ddq, "dense_loss": 0.0}, "Fix: set dense_loss"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_head(**options)
