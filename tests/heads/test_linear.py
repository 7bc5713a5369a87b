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
SIZES = [(48, 80), (41, 70)]  # of images on a canvas of 48 x 80
SEMANTIC, DEPTH = "linear", "linear_depth"


def batch(seed=0):
    """Maps of 3, 4 and 5 channels with the strides 8, 16 and 32, the padding mask, and targets; image 1 is padded."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(2, c, -(-48 // s), -(-80 // s), generator=generator) for c, s in ((3, 8), (4, 16), (5, 32))]
    mask, targets = torch.ones(2, 48, 80, dtype=torch.bool), []
    for i, (h, w) in enumerate(SIZES):
        mask[i, :h, :w] = False
        semantic = torch.randint(0, 5, (h, w), dtype=torch.uint8, generator=generator)
        semantic[:5] = 255
        depth = 12 * torch.rand(h, w, generator=generator)  # some of it beyond 10 m
        depth[:5] = 0
        size = {"image_id": i, "size": (h, w), "original_size": (2 * h, 2 * w)}
        targets.append({**size, "semantic": semantic, "depth": depth})
    return features, mask, targets


def head_of(name, features, **options):
    torch.manual_seed(1)
    return densevit.create_head(name, (3, 4, 5), (8, 16, 32), CLASSES, features=features, **options)


def by_hand(head, features, numbers, drop=None):
    """Concatenated maps, resized to the first; dropout of channels; batch norm; a 1x1 convolution."""
    size = features[numbers[0] - 1].shape[-2:]
    maps = [F.interpolate(features[n - 1], size, mode="bilinear", align_corners=False) for n in numbers]
    x = torch.cat(maps, 1)
    if drop is not None:
        torch.manual_seed(drop)
        x = F.dropout2d(x, 0.1)
    norm, convolution = head.linear.norm, head.linear.convolution
    axes = {"dim": (0, 2, 3), "keepdim": True}
    mean, variance = x.mean(**axes), x.var(**axes, correction=0)
    if not head.training:
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    x = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    return torch.einsum("bchw,kc->bkhw", x, convolution.weight[..., 0, 0]) + convolution.bias[:, None, None]


@pytest.mark.parametrize("numbers", [(3,), (1, 2, 3), (2, 3)])
def test_segmentation_is_the_authors_formula(numbers):
    features, mask, targets = batch()
    head, stride = head_of(SEMANTIC, None if numbers == (3,) else numbers), (8, 16, 32)[numbers[0] - 1]
    for training in (True, False):
        head.train(training)
        torch.manual_seed(7)
        outputs = head(features, mask, targets)
        logits = by_hand(head, features, numbers, drop=7 if training else None)
        torch.testing.assert_close(outputs["logits"], logits, atol=1e-6, rtol=1e-6)
        covered = [stride * side for side in logits.shape[-2:]]
        pixels = F.interpolate(logits, covered, mode="bilinear", align_corners=False)
        labelled = [(pixels[i, :, :h, :w], targets[i]["semantic"].long()) for i, (h, w) in enumerate(SIZES)]
        flat = torch.cat([x.flatten(1).T for x, _ in labelled]), torch.cat([t.flatten() for _, t in labelled])
        loss = head.loss(outputs, targets, LossContext())["cross_entropy"]
        torch.testing.assert_close(loss, F.cross_entropy(*flat, ignore_index=255), atol=1e-6, rtol=1e-6)
        for prediction, (x, _), (h, w) in zip(head.predict(outputs, targets), labelled, SIZES, strict=True):
            original = F.interpolate(x[None], (2 * h, 2 * w), mode="bilinear", align_corners=False)[0]
            assert torch.equal(prediction["semantic"], original.argmax(0).to(torch.uint8))
    weight = densevit.create_head(SEMANTIC, (800,), (16,), CLASSES).linear.convolution.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.linear.convolution.bias.any()
    unlabelled = [{k: v for k, v in target.items() if k != "semantic"} for target in targets]
    assert head.loss(outputs, unlabelled, LossContext())["cross_entropy"] == 0


@pytest.mark.parametrize("numbers", [(3,), (1, 2, 3)])
@pytest.mark.parametrize("step", [99, 100])
def test_depth_is_the_authors_formula(numbers, step):
    """With one labelled image, for which the mean over images is the authors' loss."""
    features, mask, targets = batch()
    head, stride = head_of(DEPTH, numbers).eval(), (8, 16, 32)[numbers[0] - 1]
    x = by_hand(head, features, numbers)
    weights = torch.relu(x) + 0.1
    bins = torch.linspace(0.001, 10, 256)
    depth = (weights / weights.sum(1, keepdim=True) * bins[:, None, None]).sum(1, keepdim=True)
    outputs = head(features, mask, targets)
    torch.testing.assert_close(outputs["depth"], depth, atol=1e-6, rtol=1e-6)
    covered = [stride * side for side in depth.shape[-2:]]
    pixels = F.interpolate(depth, covered, mode="bilinear", align_corners=False)
    losses = []
    for i, (h, w) in enumerate(SIZES):
        truth = targets[i]["depth"]
        valid = (truth >= 0.001) & (truth <= 10)
        g = (pixels[i, 0, :h, :w][valid] + 0.001).log() - (truth[valid] + 0.001).log()
        losses.append((0.15 * g.mean() ** 2 + (g.var() if step >= 100 else 0)).sqrt())
        one = [{k: v for k, v in t.items() if k != "depth" or n == i} for n, t in enumerate(targets)]
        loss = head.loss(outputs, one, LossContext(step=step))["log_depth"]
        torch.testing.assert_close(loss, losses[i], atol=1e-6, rtol=1e-6)
        assert head.loss_counts(one) == {"images": 1}
        expected = F.interpolate(pixels[i : i + 1, :, :h, :w], (2 * h, 2 * w), mode="bilinear", align_corners=False)
        torch.testing.assert_close(head.predict(outputs, targets)[i]["depth"], expected[0, 0])
    loss = head.loss(outputs, targets, LossContext(step=step))["log_depth"]
    torch.testing.assert_close(loss, sum(losses) / 2, atol=1e-6, rtol=1e-6)
    beyond = [{**t, "depth": torch.where(t["depth"] > 5, float("nan"), 11.0)} for t in targets]
    assert head.loss(outputs, beyond, LossContext(step=step))["log_depth"] == 0
    assert head.loss_counts(beyond) == {"images": 0}


@pytest.mark.parametrize("step", [0, 100])
def test_the_depth_loss_is_finite_for_one_pixel_and_for_exact_predictions(step):
    truth = torch.zeros(2, 4, 4)
    truth[0, 0, 0], truth[1] = 2.0, 3.0
    prediction = torch.full((2, 4, 4), 3.0, requires_grad=True)
    loss = log_depth_loss(prediction, truth, LossContext(step=step))
    g = torch.tensor(3.001 / 2.001).log()
    torch.testing.assert_close(loss, (0.15**0.5 * g) / 2)
    loss.backward()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (SEMANTIC, {"features": (0,)}, r"features is \[0\]; expected ascending numbers from 1 to 3"),
        (SEMANTIC, {"features": (2, 1)}, r"features is \[2, 1\]"),
        (SEMANTIC, {"features": ()}, r"features is \[\]"),
        (SEMANTIC, {"features": (1,), "dropout": 1.0}, "dropout is 1"),
        (DEPTH, {"features": (1,), "bins": 1}, "bins is 1; it must be at least 2"),
        (DEPTH, {"features": (1,), "min_depth": 0.0}, "min_depth is 0 and max_depth 10"),
        (DEPTH, {"features": (1,), "max_depth": float("inf")}, "max_depth should be a finite number"),
    ],
)
def test_wrong_options_are_errors_of_one_line(name, options, message):
    with pytest.raises(DensevitError, match=message):
        head_of(name, **options)
