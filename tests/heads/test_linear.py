"""Linear heads against the formulas of DINOv2 and DINOv3, written by hand."""

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit.errors import DensevitError
from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit_heads.linear.depth import log_depth_loss

CLASSES = [Class(str(i), i + 1, (0, 0, 0)) for i in range(5)]
STRIDES, CANVAS = (8, 16, 32), (48, 80)
SIZES = [(48, 80), (41, 70)]  # of two images; the second is padded
CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def batch():
    """Maps of 3, 4 and 5 channels, the padding mask, label maps with 255, and depth from 0 to 12 metres."""
    torch.manual_seed(0)
    features = [torch.randn(2, c, *(-(-side // s) for side in CANVAS)) for c, s in zip((3, 4, 5), STRIDES, strict=True)]
    targets = [
        {"image_id": i, "size": size, "original_size": (2 * size[0], 2 * size[1]),
         "semantic": torch.randint(5, size).where(torch.rand(size) < 0.9, 255).to(torch.uint8),
         "depth": (13 * torch.rand(size) - 1).clamp(min=0)}
        for i, size in enumerate(SIZES)
    ]  # fmt: skip
    return features, torch.zeros(2, *CANVAS, dtype=torch.bool), targets


def head_of(name, features, **options):
    return densevit.create_head(name, (3, 4, 5), STRIDES, CLASSES, features=features, **options)


def layer_by_hand(head, features, numbers):
    """Maps resized to the first and concatenated; dropout of channels; batch norm; a 1x1 convolution."""
    maps = [F.interpolate(features[n - 1], features[numbers[0] - 1].shape[-2:], mode="bilinear") for n in numbers]
    torch.manual_seed(7)
    x, norm, convolution = (
        F.dropout2d(torch.cat(maps, 1), 0.1, head.training),
        head.linear.norm,
        head.linear.convolution,
    )
    statistics = (None, None) if head.training else (norm.running_mean, norm.running_var)
    return F.conv2d(F.batch_norm(x, *statistics, norm.weight, norm.bias, head.training), convolution.weight)


def pixels_by_hand(x, numbers):
    return F.interpolate(x, [STRIDES[numbers[0] - 1] * side for side in x.shape[-2:]], mode="bilinear")


@pytest.mark.parametrize("numbers", [(3,), (1, 2, 3), (2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_segmentation_is_the_authors_formula(numbers, training):
    features, mask, targets = batch()
    head = head_of("linear", None if numbers == (3,) else numbers).train(training)
    torch.manual_seed(7)
    outputs, logits = head(features, mask, targets), layer_by_hand(head, features, numbers)
    torch.testing.assert_close(outputs["logits"], logits, **CLOSE)
    pixels = pixels_by_hand(logits, numbers)
    rows = [pixels[i, :, :h, :w].flatten(1) for i, (h, w) in enumerate(SIZES)]
    labels = torch.cat([target["semantic"].flatten().long() for target in targets])
    loss = head.loss(outputs, targets, LossContext())["cross_entropy"]
    torch.testing.assert_close(loss, F.cross_entropy(torch.cat(rows, 1).T, labels, ignore_index=255), **CLOSE)
    for i, (h, w) in enumerate(SIZES):
        original = F.interpolate(pixels[i : i + 1, :, :h, :w], (2 * h, 2 * w), mode="bilinear").argmax(1)
        assert torch.equal(head.predict(outputs, targets)[i]["semantic"].long(), original[0])
    unlabelled = [{"size": target["size"]} for target in targets]
    assert head.loss(outputs, unlabelled, LossContext())["cross_entropy"] == 0


def test_the_convolution_starts_with_a_deviation_of_a_hundredth_and_no_bias():
    convolution = densevit.create_head("linear", (2000,), (16,), CLASSES).linear.convolution
    assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05) and not convolution.bias.any()


@pytest.mark.parametrize("numbers", [(3,), (1, 2, 3)])
@pytest.mark.parametrize("step", [99, 100])
def test_depth_is_the_authors_formula(numbers, step):
    """Of each image alone, for which the mean over images is the authors' loss, and of both."""
    features, mask, targets = batch()
    head, losses = head_of("linear_depth", numbers).eval(), []
    outputs, weights = head(features, mask), torch.relu(layer_by_hand(head, features, numbers)) + 0.1
    bins = torch.linspace(0.001, 10, 256)[:, None, None]
    depth = (weights / weights.sum(1, keepdim=True) * bins).sum(1, keepdim=True)
    torch.testing.assert_close(outputs["depth"], depth, **CLOSE)
    for i, (h, w) in enumerate(SIZES):
        pixels, truth = pixels_by_hand(depth, numbers)[i : i + 1, :, :h, :w], targets[i]["depth"]
        valid = (truth >= 0.001) & (truth <= 10)
        g = (pixels[0, 0][valid] + 0.001).log() - (truth[valid] + 0.001).log()
        losses.append((0.15 * g.mean() ** 2 + (g.var() if step >= 100 else 0)).sqrt())
        alone = [target if n == i else {"size": target["size"]} for n, target in enumerate(targets)]
        loss = head.loss(outputs, alone, LossContext(step=step))["log_depth"]
        torch.testing.assert_close(loss, losses[i], **CLOSE)
        original = F.interpolate(pixels, (2 * h, 2 * w), mode="bilinear")[0, 0]
        torch.testing.assert_close(head.predict(outputs, targets)[i]["depth"], original)
    loss = head.loss(outputs, targets, LossContext(step=step))["log_depth"]
    torch.testing.assert_close(loss, sum(losses) / 2, **CLOSE)
    beyond = [{**t, "depth": torch.where(t["depth"] > 5, float("nan"), 11.0)} for t in targets]
    assert head.loss(outputs, beyond, LossContext(step=step))["log_depth"] == 0 == head.loss_counts(beyond)["images"]


@pytest.mark.parametrize("step", [0, 100])
def test_the_depth_loss_of_one_pixel_and_of_an_exact_prediction_has_finite_gradients(step):
    truth = F.pad(torch.tensor([[[2.0]], [[3.0]]]), (0, 3, 0, 3))
    prediction = torch.full((2, 4, 4), 3.0, requires_grad=True)
    loss = log_depth_loss(prediction, truth, LossContext(step=step))
    torch.testing.assert_close(loss, (0.15**0.5 * torch.tensor(3.001 / 2.001).log()) / 2)
    loss.backward()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"features": (0,)}, r"features is \[0\]; expected ascending numbers from 1 to 3"),
        ("linear", {"features": (2, 1)}, r"features is \[2, 1\]"),
        ("linear", {"features": ()}, r"features is \[\]"),
        ("linear", {"features": (1,), "dropout": 1.0}, "dropout is 1"),
        ("linear_depth", {"features": (1,), "bins": 1}, "bins is 1; it must be at least 2"),
        ("linear_depth", {"features": (1,), "min_depth": 0.0}, "min_depth is 0 and max_depth 10"),
        ("linear_depth", {"features": (1,), "max_depth": float("inf")}, "max_depth should be a finite number"),
    ],
)
def test_wrong_options_are_errors(name, options, message):
    with pytest.raises(DensevitError, match=message):
        head_of(name, **options)
