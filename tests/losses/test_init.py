"""densevit.losses in an own loop, without a config or a model, against other libraries and brute force."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import densevit
from densevit import losses
from tests.strict_device import DEVICE, Accelerator, host

B, Q, K, SIZE = 3, 7, 4, (60, 80)
COUNTS = [3, 0, 2]


def scene() -> SimpleNamespace:
    """Predictions of two layers for K classes, targets with COUNTS objects, and maps."""
    targets = []
    for count in COUNTS:
        low = torch.rand(count, 2) * torch.tensor([50.0, 30.0])
        boxes = torch.cat([low, low + 5 + 20 * torch.rand(count, 2)], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(K, (count,)), "size": SIZE})
    labels = torch.randint(K, (B, 5, 6))
    labels[torch.rand(B, 5, 6) < 0.3] = 255
    return SimpleNamespace(
        logits=torch.randn(2, B, Q, K + 1),
        boxes=0.2 + 0.5 * torch.rand(2, B, Q, 4),
        targets=targets,
        maps=torch.randn(B, K, 5, 6),
        labels=labels,
        depth=(labels != 255) * (0.5 + torch.rand(B, 5, 6)),
        prediction=0.5 + torch.rand(B, 5, 6),
    )


def truth(x: SimpleNamespace) -> losses.Objects:
    return losses.Objects.of(x.targets, x.logits.device)


CALLS: dict[str, Callable[[SimpleNamespace], Any]] = {
    "HungarianLoss": lambda x: losses.HungarianLoss()(x.logits, x.boxes, x.targets),
    "LossWeights": lambda x: losses.HungarianLoss(weights=losses.LossWeights(giou=1.0))(x.logits, x.boxes, x.targets),
    "MatchedPairs": lambda x: losses.MatchedPairs(*losses.hungarian(x.logits, x.boxes, x.targets)).by_query(),
    "MatchingCosts": lambda x: losses.hungarian(x.logits, x.boxes, x.targets, losses.MatchingCosts(label=2.0)),
    "Objects": truth,
    "assign": lambda x: losses.assign(losses.matching_costs(x.logits, x.boxes, truth(x)), COUNTS, range(B)),
    "cross_entropy": lambda x: losses.cross_entropy(x.maps, x.labels),
    "depth_maps": lambda x: losses.depth_maps([{"size": (5, 6), "depth": each} for each in x.depth], x.depth.device),
    "dice": lambda x: losses.dice(x.maps, x.labels),
    "focal": lambda x: losses.focal(x.maps, (x.maps > 1).long()),
    "gradient_matching": lambda x: losses.gradient_matching(x.prediction - x.depth, x.depth > 0),
    "hungarian": lambda x: losses.hungarian(x.logits, x.boxes, x.targets),
    "label_counts": lambda x: losses.label_counts([{"semantic": host(x.labels)}]),
    "label_maps": lambda x: losses.label_maps(
        [{"size": (5, 6), "semantic": each} for each in x.labels], x.labels.device
    ),
    "matching_costs": lambda x: losses.matching_costs(x.logits, x.boxes, truth(x)),
    "robust_error": lambda x: losses.robust_error(x.prediction, x.depth),
    "scale_and_shift_invariant": lambda x: losses.scale_and_shift_invariant(x.prediction, x.depth),
    "silog": lambda x: losses.silog(x.prediction, x.depth),
}
MATCHING = {"HungarianLoss", "LossWeights", "MatchedPairs", "MatchingCosts", "assign", "hungarian"}


def test_each_name_is_documented_with_shapes_and_works_without_a_context(project: Path):
    page = (project / "docs/reference/tools.md").read_text(encoding="utf-8")
    assert CALLS.keys() == set(losses.__all__) == set(re.findall(r"^::: densevit\.losses\.(\w+)$", page, re.MULTILINE))
    for name in losses.__all__:
        value = getattr(densevit.losses, name)
        function = value.__call__ if name == "HungarianLoss" else value
        texts = [inspect.getdoc(value) or "", inspect.getdoc(getattr(value, "of", None)) or ""]
        if "Tensor" in str(inspect.signature(function)) + str(inspect.get_annotations(value)):
            assert re.search(r"\((\.\.\.|[BKLMT],.*?)\)", "".join(texts)), f"{name} has no shapes"
        context = inspect.signature(function).parameters.get("context")
        assert context is None or context.default == densevit.LossContext(), name


@pytest.mark.parametrize("name", CALLS)
def test_each_name_runs_on_any_device_and_waits_for_matching_only(name: str):
    x = scene()
    expected = CALLS[name](x)
    with Accelerator(torch.float64) as accelerator:
        there = SimpleNamespace(**tree_map_only(Tensor, lambda y: y.to(DEVICE), vars(x)))
        accelerator.waits.clear()
        found = CALLS[name](there)
        assert dict(accelerator.waits) == ({"to the CPU": 1} if name in MATCHING else {})
    torch.testing.assert_close(tree_map_only(Tensor, host, found), expected)


@pytest.mark.integration
@pytest.mark.parametrize("layers", [1, 2])
def test_the_softmax_loss_is_transformers_loss_of_detr(layers: int):
    from transformers import DetrConfig, ResNetConfig
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    x = scene()
    logits, boxes = x.logits[:layers].requires_grad_(), x.boxes[:layers].requires_grad_()
    config = DetrConfig(num_labels=K, auxiliary_loss=layers > 1, backbone_config=ResNetConfig())
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    theirs = []
    for target in x.targets:
        low, high = (target["boxes"] / scale).split(2, 1)
        theirs.append({"class_labels": target["labels"], "boxes": torch.cat([(low + high) / 2, high - low], 1)})
    expected, terms, _ = ForObjectDetectionLoss(
        logits[-1], theirs, torch.device("cpu"), boxes[-1], config, logits, boxes
    )
    found = losses.HungarianLoss()(*(y if layers > 1 else y[0] for y in (logits, boxes)), x.targets)
    torch.testing.assert_close(found["label"], terms["loss_ce"])
    torch.testing.assert_close(found["l1"], 5 * terms["loss_bbox"])
    torch.testing.assert_close(sum(found.values()), expected)
    gradients = [torch.autograd.grad(loss, (logits, boxes)) for loss in (sum(found.values()), expected)]
    torch.testing.assert_close(*gradients)


def test_own_pairs_are_learned_and_unlabelled_images_left_out():
    x = scene()
    criterion, (logits, boxes) = losses.HungarianLoss(), (x.logits, x.boxes)
    objects = truth(x)
    cost = losses.matching_costs(logits, boxes, objects) + 100 * (torch.arange(Q) < 2)  # the first two cost more
    pairs = losses.assign(cost, objects.counts, objects.names)
    assert pairs.query.min() >= 2 and losses.hungarian(logits, boxes, objects).query.min() < 2
    assert criterion(logits, boxes, x.targets, pairs=pairs)["l1"] > criterion(logits, boxes, x.targets)["l1"]

    x.targets[1] = {"size": SIZE}
    alone = criterion(logits[:, [0, 2]], boxes[:, [0, 2]], [x.targets[0], x.targets[2]])
    assert criterion(logits, boxes, x.targets) == alone
    by_fractions = [{**target, "size": (1, 1)} for target in x.targets]
    for target in by_fractions[::2]:
        target["boxes"] = target["boxes"] / torch.tensor([80, 60, 80, 60])
    torch.testing.assert_close(criterion(logits, boxes, by_fractions), alone)
    logits = logits.clone().requires_grad_()
    nothing = sum(criterion(logits, boxes, [{}] * B).values())
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()


def test_label_maps_may_be_uint8():
    x = scene()
    expected = torch.nn.functional.cross_entropy(x.maps, x.labels, torch.arange(4.0), ignore_index=255)
    torch.testing.assert_close(losses.cross_entropy(x.maps, x.labels.byte(), class_weights=torch.arange(4.0)), expected)
    assert losses.dice(x.maps, x.labels.byte()) == losses.dice(x.maps, x.labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: losses.hungarian(x.logits, x.boxes[..., :3], x.targets),
            "boxes has the shape (2, 3, 7, 3); expected (L=2, targets=3, Q=7, coordinates=4).",
        ),
        (
            lambda x: losses.HungarianLoss()(x.logits[0], x.boxes[0, :, :6], x.targets),
            "boxes has the shape (3, 6, 4); expected (targets=3, Q=7, coordinates=4).",
        ),
        (
            lambda x: losses.HungarianLoss()(x.logits, x.boxes, [{}, x.targets[0]]),
            "logits has the shape (2, 3, 7, 5); expected (L=2, targets=2, Q, K).",
        ),
        (
            lambda x: losses.hungarian(x.logits[0, 0], x.boxes[0, 0], x.targets),
            "logits has the shape (7, 5); expected (L, targets=3, Q, K).",
        ),
        (
            lambda x: losses.HungarianLoss()(x.logits, x.boxes, [x.targets[0], {}, x.targets[2]]),
            "targets[1] has no size, by which boxes are divided. Fix: set it to the (height, width) of its image in "
            "pixels; to (1, 1) for boxes in 0 ... 1.",
        ),
        (
            lambda _: losses.HungarianLoss(classification="softmx"),  # type: ignore[arg-type]
            "classification is 'softmx'. Did you mean 'softmax'? Known: focal, iou_aware, mal, softmax, varifocal, "
            "varifocal_matched.",
        ),
        (
            lambda x: losses.cross_entropy(x.maps, x.labels[:, None]),
            "labels has the shape (3, 1, 5, 6); expected (B=3, H=5, W=6).",
        ),
        (lambda x: losses.dice(x.maps, x.labels.mT), "labels has the shape (3, 6, 5); expected (B=3, H=5, W=6)."),
        (
            lambda x: losses.gradient_matching(x.depth, x.depth.mT > 0),
            "valid has the shape (3, 6, 5); expected (B=3, H=5, W=6).",
        ),
        *(
            (
                lambda x, loss=loss: loss(x.prediction[:, None], x.depth),
                "prediction has the shape (3, 1, 5, 6); expected (B=3, H=5, W=6).",
            )
            for loss in (losses.silog, losses.scale_and_shift_invariant, losses.robust_error)
        ),
    ],
)
def test_errors_name_the_argument(call: Callable[[SimpleNamespace], Any], message: str):
    with pytest.raises(densevit.DensevitError) as error:
        call(scene())
    assert str(error.value) == message
