"""Faster R-CNN and FCOS against torchvision's models with the same weights: losses, gradients and detections."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Head, Targets
from densevit.losses.context import LossContext
from tests.heads.padded_batch import perturbed

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]
SIZES = [(120, 230), (90, 70), (200, 101)]  # rows and columns that are no multiples of the strides
ORIGINAL = [(240, 690), (90, 70), (100, 101)]
CHANNELS = (6, 8, 10, 12)
PADDED = (256, 256)  # a multiple of all strides, for which torchvision's anchors have these strides
WIDTH = 64


class Maps(nn.Module):
    """Random projections of images, averaged over the cells of each stride."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, c, s, s) for c, s in zip(CHANNELS, strides, strict=False))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [layer(images) for layer in self.convolutions]


class MapsWithPyramid(nn.Module):
    """The backbone of the references: `fpn` is torchvision's."""

    out_channels = WIDTH

    def __init__(self, maps: Maps, fpn: nn.Module) -> None:
        super().__init__()
        self.maps, self.fpn = maps, fpn

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(self.maps(images))))


def their_name(key: str) -> str:
    return key.replace("pyramid.fpn", "backbone.fpn").removeprefix("fcos.")


def give_weights(head: Head, reference: nn.Module, maps: Maps) -> None:
    """torchvision's model gets the head's weights and takes images as they are."""
    reference.transform.resize = lambda image, target=None: (image, target)
    perturbed(head, 0.05)
    state = {their_name(key): value for key, value in head.state_dict().items()}
    reference.load_state_dict(state | {f"backbone.maps.{key}": value for key, value in maps.state_dict().items()})


def faster_rcnn() -> tuple[Head, nn.Module, Maps]:
    """A head and torchvision's model of the same weights, and the maps before the pyramid."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    from densevit_heads.torchvision_detectors import FasterRCNN

    options: dict[str, Any] = {"width": WIDTH, "box_width": 32, "num_proposals": 60, "num_samples": 40}
    head = FasterRCNN(CHANNELS, (4, 8, 16, 32), CLASSES, anchor_scale=4, max_predictions=1000, **options)
    maps = Maps((4, 8, 16, 32))
    fpn = FeaturePyramidNetwork(list(CHANNELS), WIDTH, LastLevelMaxPool())
    reference = detection.FasterRCNN(
        MapsWithPyramid(maps, fpn),
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5),
        box_head=TwoMLPHead(WIDTH * 49, 32),
        box_predictor=FastRCNNPredictor(32, len(CLASSES) + 1),
        rpn_pre_nms_top_n_train=120, rpn_post_nms_top_n_train=120, rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=60, box_batch_size_per_image=40, box_detections_per_img=1000, **TRANSFORM,
    )  # fmt: skip
    reference.roi_heads.box_roi_pool.canonical_scale = 112  # half, as the anchors
    give_weights(head, reference, maps)
    return head, reference, maps


def fcos() -> tuple[Head, nn.Module, Maps]:
    """See `faster_rcnn`. The finest feature has a stride that the head does not use."""
    from torchvision.models import detection
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    from densevit_heads.torchvision_detectors import FCOS

    head = FCOS(CHANNELS, (4, 8, 16, 32), CLASSES, width=WIDTH, score_threshold=0.1, max_predictions=1000)
    maps = Maps((4, 8, 16, 32))
    coarse = Maps(())
    coarse.convolutions = maps.convolutions[1:]
    fpn = FeaturePyramidNetwork(list(CHANNELS[1:]), WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    reference = detection.FCOS(
        MapsWithPyramid(coarse, fpn), len(CLASSES), score_thresh=0.1, detections_per_img=1000, **TRANSFORM
    )
    give_weights(head, reference, coarse)
    return head, reference, maps


TRANSFORM = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "size_divisible": 256}
BUILD = {"faster_rcnn": faster_rcnn, "fcos": fcos}
RCNN_TERMS = {"objectness": "loss_objectness", "proposal": "loss_rpn_box_reg"}
TERMS = {
    "faster_rcnn": {**RCNN_TERMS, "label": "loss_classifier", "box": "loss_box_reg"},
    "fcos": {"label": "classification", "giou": "bbox_regression", "centerness": "bbox_ctrness"},
}


def images_and_targets() -> tuple[list[Tensor], list[Targets]]:
    """Images of three sizes; the second has no objects."""
    images = [torch.rand(3, *size) for size in SIZES]
    targets: list[Targets] = []
    for i, (count, size, original) in enumerate(zip((4, 0, 3), SIZES, ORIGINAL, strict=True)):
        low = 40 * torch.rand(count, 2)
        boxes = torch.cat([low, low + torch.tensor([12.0, 16.0]) + 40 * torch.rand(count, 2)], dim=1)
        labels = torch.randint(len(CLASSES), (count,))
        targets.append({"image_id": i, "size": size, "original_size": original, "boxes": boxes, "labels": labels})
    return images, targets


def padded(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The batch (B, 3, H, W), and its padding mask (B, H, W)."""
    batch, mask = torch.zeros(len(images), 3, *PADDED), torch.ones(len(images), *PADDED, dtype=torch.bool)
    for i, image in enumerate(images):
        batch[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = False
    return batch, mask


@pytest.fixture
def order_independent_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permutations depend on their length only: the two models draw samples in different orders."""
    randperm = torch.randperm

    def seeded(count: int, device: Any = None) -> Tensor:
        return randperm(count, generator=torch.Generator().manual_seed(count)).to(device)

    monkeypatch.setattr(torch, "randperm", seeded)


@pytest.mark.usefixtures("order_independent_samples")
@pytest.mark.parametrize("name", BUILD)
def test_losses_and_gradients_are_those_of_torchvision(name: str):
    """Also with a box without area, which torchvision's model refuses and the head leaves out."""
    head, reference, maps = BUILD[name]()
    images, targets = images_and_targets()
    batch, mask = padded(images)
    first = 1 if name == "faster_rcnn" else 0  # torchvision's label of the first class
    expected = reference.train()(images, [{"boxes": t["boxes"], "labels": t["labels"] + first} for t in targets])
    targets[0]["boxes"] = torch.cat([targets[0]["boxes"], torch.tensor([[30.0, 20.0, 30.0, 50.0]])])
    targets[0]["labels"] = torch.cat([targets[0]["labels"], torch.tensor([1])])
    losses = head.train().loss(head(maps(batch), mask, targets), targets, LossContext())
    assert losses.keys() == TERMS[name].keys()
    for term, key in TERMS[name].items():
        assert losses[term] > 0
        torch.testing.assert_close(losses[term], expected[key], rtol=1e-4, atol=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    sum(expected.values()).backward()
    own = {key: p.grad for key, p in head.named_parameters()}
    others = {key: p.grad for key, p in reference.named_parameters()}
    for key, gradient in own.items():
        other = others[their_name(key)]
        assert gradient.any(), key
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", BUILD)
def test_detections_are_those_of_torchvision(name: str):
    """In original pixels, except the boxes without area that torchvision's FCOS has in the padding."""
    torch.manual_seed(1)
    head, reference, maps = BUILD[name]()
    images, targets = images_and_targets()
    batch, mask = padded(images)
    with torch.no_grad():
        expected = reference.eval()(images)
        found = head.eval().predict(head(maps(batch), mask), targets)
    for own, other, (h, w), (H, W) in zip(found, expected, SIZES, ORIGINAL, strict=True):
        kept = (other["boxes"][:, 2:] > other["boxes"][:, :2]).all(1)
        assert kept.sum() > 5
        zoom = torch.tensor([W / w, H / h, W / w, H / h])
        torch.testing.assert_close(own["boxes"], other["boxes"][kept] * zoom, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(own["scores"], other["scores"][kept], rtol=1e-4, atol=1e-4)
        first = 1 if name == "faster_rcnn" else 0
        assert own["labels"].tolist() == (other["labels"][kept] - first).tolist()
