"""The criterion of groups beside the criterion of one group and matched losses of proposals."""

import pytest
import torch

import densevit
from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.losses.matching import MatchingCosts, Objects
from densevit.set_prediction.criterion import SetCriterion
from densevit_heads.gtr.criterion import GroupedDfineCriterion
from densevit_heads.gtr.head import GtrTransformer
from densevit_heads.parts.distributions.criterion import DfineCriterion, DfineLossWeights, LayerOutputs
from tests.heads.dfine.test_criterion import make_outputs
from tests.heads.transformers_pairs import scene

OPTIONS = (MatchingCosts(label=2.0), DfineLossWeights(), "mal")
COUNTS = [3, 0, 6, 1]


def test_groups_learn_like_images_and_proposals_from_their_own_matching():
    """Losses are means over the groups: two groups of the same predictions have the losses of one."""
    layers = make_outputs(len(COUNTS), 14, 6, seed=3)
    _, _, targets = scene([(100, 100)] * 4, COUNTS, 5)
    twice = LayerOutputs(*(torch.cat([x, x], dim=1) for x in layers[:3]), torch.cat([layers.initial] * 2))
    twofold = GroupedDfineCriterion(*OPTIONS).losses({"layers": twice}, targets, LossContext())
    expected = DfineCriterion(*OPTIONS).losses({"layers": layers}, targets, LossContext())
    objects = Objects.of(targets, torch.device("cpu"))
    proposals = SetCriterion(*OPTIONS).losses_per_layer(layers.logits[-1:], layers.boxes[-1:], objects, LossContext())
    expected["proposals"] = torch.stack(list(proposals.values())).sum()
    for name, value in expected.items():
        # the lower bound of a matched IoU is 0.01 in DEIM's loss
        assert float(twofold[name]) == pytest.approx(float(value), rel=1e-3 if name == "proposals" else 1e-5), name


def test_groups_are_selected_and_trained_apart():
    """Queries of one group learn nothing from another's, and denoising queries nothing from object queries."""
    classes = [Class("a", 1, (0, 0, 0)), Class("b", 2, (0, 0, 0))]
    options = {"num_queries": 5, "transformer": GtrTransformer(32, 2, 0, 2, 32), "num_points": 2, "num_groups": 3}
    head = densevit.create_head("gtr", (32, 32), (8, 16), classes, contrastive_denoising=4, **options).train()
    features = [torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 4)]
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    targets = [
        {
            "boxes": torch.tensor([4.0, 4, 40, 40]).expand(count, 4),
            "labels": torch.ones(count, dtype=torch.long),
            "size": (64, 64),
        }
        for count in (2, 0)
    ]
    outputs = head(features, mask, targets)
    layers, noised = outputs["layers"], outputs["denoising"].contents.shape[1]
    assert layers.boxes.shape[1:3] == (3 * 2, noised + 5) and outputs["logits"].shape == (2, 5, 2)
    layers.logits[:3, 2:4, noised:].sum().backward(retain_graph=True)  # the second group of both images
    assert [any(p.grad is not None and p.grad.any() for p in group.parameters()) for group in head.groups] == [
        False
    ] * 3
    head.denoising.label_embedding.weight.grad = None
    [gradient] = torch.autograd.grad(
        layers.logits[1, 2:4, noised:].sum(), outputs["denoising"].contents, retain_graph=True, allow_unused=True
    )
    assert gradient is None or not gradient.any()
    losses = head.loss(outputs, targets, LossContext())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
