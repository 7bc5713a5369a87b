"""The DPT heads: levels of maps, outputs and their units, losses, and options."""

from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from densevit.losses import depth as metric_losses
from densevit.losses import relative_depth as relative_losses
from densevit.losses.context import LossContext
from densevit.losses.segmentation import cross_entropy, dice
from densevit_heads.dpt import DptDepth, DptSegmentation
from densevit_heads.dpt.depth import DepthLossWeights
from densevit_heads.dpt.depth_outputs import OUTPUT_TYPES, Output
from tests.heads.padded_batch import CLASSES, make_features, no_padding

PYRAMID = ((6, 8, 10, 12), (4, 8, 16, 32))
PLAIN = ((12, 12, 12, 12), (16, 16, 16, 16))


def activated(head, *logits):
    return head.output_type.read(torch.tensor(logits).view(1, 1, 1, -1).repeat(1, head.conv3.out_channels, 1, 1))[
        0, 0, 0
    ]


def test_metric_outputs_are_within_their_range():
    """At first they are about a quarter of the largest depth, or as near as the inverse output's scale allows."""
    assert {*get_args(Output)} == {*OUTPUT_TYPES}
    limits = {"min_depth": 0.5, "max_depth": 80.0}
    for output, options, logits, depths in (
        ("sigmoid", limits, (-1e4, 0.0, 1e4), [0.5, 40.25, 80]),
        ("softplus", limits, (-1e4,), [0.5]),
        ("exponential", limits, (-1.0, 0.0, 5.0), [0.3678794, 1, 148.41316]),
        ("inverse", {"max_depth": 80.0}, (-1.0, 0.0, 1.0, 9.0), [80, 80, 20, 80 / 28]),
        ("bins", limits, (), []),
    ):
        head = DptDepth(*PYRAMID, output=output, width=8, **options).eval()
        assert head.depth_type == "depth" and activated(head, *logits).tolist() == pytest.approx(depths, rel=1e-5)
        first = head(make_features(PYRAMID, (64, 64)), no_padding((64, 64)))["depth"].median().item()
        assert first == pytest.approx(min(20.0, (options.get("shift") and 0.5 / options["shift"]) or 20.0), rel=0.5)
    bins = torch.stack([torch.linspace(s, -s, 64) for s in (1e4, 1, 0, -1, -1e4)], 1)[None, :, None]
    found = head.output_type.read(bins)[0, 0, 0]
    assert found.diff().min() > 0
    assert found[[0, 2, 4]].tolist() == pytest.approx([0.5, (0.5 * 80) ** 0.5, 80], rel=1e-5)  # a geometric mean


@pytest.mark.parametrize(("output", "zoomed"), [("exponential", 6.0), ("relative_exponential", 1.5)])
def test_the_sky_has_no_depth(output, zoomed):
    head = DptDepth(*PLAIN, width=8, output=output, upsampling="exact", sky=True)
    assert activated(head, 2.0).log().item() == pytest.approx(2 if output == "exponential" else -2)
    outputs = {head.depth_type: torch.tensor([[[[1.0, 2, 3]]]]), "sky": torch.tensor([[[[0.29, 0.3, 0.0]]]])}
    [prediction] = head.predict(outputs, [{"size": (1, 3), "original_size": (1, 3)}])
    assert {key: x.tolist() for key, x in prediction.items()} == {head.depth_type: [[1, 0, 3]], "sky": [[0, 1, 0]]}
    assert head.undo_zoom(head.maps(outputs, (1, 3)), 2.0)[0, :, 0, 2].tolist() == [zoomed, 0]
    assert not any(x.requires_grad for x in head.sky.parameters())
    assert head.replaced_tensors({"output": "relative_exponential"}) == ({}, "")  # metres start from relative depth


def test_metric_losses_are_the_weighted_terms():
    weights = DepthLossWeights(silog=2.0, l1=0.5, gradient=4.0)
    head = DptDepth(*PYRAMID, width=8, output="sigmoid", max_depth=5.0, loss_weights=weights)
    targets = [{"size": size, "depth": 7 * torch.rand(size)} for size in [(64, 96), (50, 70), (40, 40)]]
    del targets[2]["depth"]
    outputs = head(make_features(PYRAMID, (64, 96), B=3), no_padding((64, 96), 3), targets)
    losses = head.loss(outputs, targets, LossContext())
    truth = torch.zeros(3, 64, 96)
    for own, target in zip(truth[:2], targets[:2], strict=True):
        h, w = target["size"]
        own[:h, :w] = torch.where((target["depth"] >= 1e-3) & (target["depth"] <= 5), target["depth"], 0.0)
    depths = outputs["depth"][:, 0]
    expected = {
        "silog": 2 * metric_losses.silog(depths, truth, LossContext()),
        "l1": 0.5 * metric_losses.l1(depths, truth, LossContext()),
        "gradient": 4
        * relative_losses.gradient_matching(
            depths.log() - torch.where(truth > 0, truth, 1.0).log(), truth > 0, LossContext()
        ),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value)
    beyond = [{"size": (64, 96), "depth": torch.full((64, 96), 6.0)}] * 3
    assert not any(x.any() for x in head.loss(outputs, beyond, LossContext()).values())


def test_relative_losses_use_inverse_depth():
    targets = [{"size": (64, 96), "depth": 7 * torch.rand(64, 96).clamp(min=0.05)}] * 2
    inverse = 1 / torch.stack([target["depth"] for target in targets])
    head = DptDepth(*PLAIN, width=8)
    outputs = head(make_features(PLAIN, (64, 96)), no_padding((64, 96)), targets)
    own = outputs["inverse_depth"][:, 0]
    losses = head.loss(outputs, targets, LossContext())
    assert losses.keys() == {"trimmed", "gradient"}
    torch.testing.assert_close(
        losses["trimmed"], relative_losses.scale_and_shift_invariant(own, inverse, LossContext())
    )
    error = relative_losses.robust_error(own, inverse)
    torch.testing.assert_close(losses["gradient"], 0.5 * relative_losses.gradient_matching(*error, LossContext()))


def test_segmentation_losses_use_the_paper_s_auxiliary_weight():
    head = DptSegmentation(*PYRAMID, CLASSES, width=8, norm="group", dice=0.5, class_weights=(1.0, 2.0, 1.0, 0.5))
    targets = [{"size": (64, 96), "semantic": torch.randint(4, (64, 96), dtype=torch.uint8)} for _ in range(2)]
    outputs = head(make_features(PYRAMID, (64, 96)), no_padding((64, 96)), targets)
    assert outputs["logits"].shape == (2, 4, 32, 48) and outputs["auxiliary"].shape == (2, 4, 16, 24)
    losses = head.loss(outputs, targets, LossContext())
    labels = torch.stack([target["semantic"] for target in targets]).long()

    def terms(logits):
        return cross_entropy(logits, labels, LossContext(), head.class_weights(labels, LossContext())), 0.5 * dice(
            logits, labels, LossContext()
        )

    entropy, overlap = terms(F.interpolate(outputs["logits"], scale_factor=2, mode="bilinear", align_corners=True))
    torch.testing.assert_close(losses["cross_entropy"], entropy)
    torch.testing.assert_close(losses["dice"], overlap)
    auxiliary = F.interpolate(outputs["auxiliary"], size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(losses["auxiliary"], 0.2 * sum(terms(auxiliary)))
