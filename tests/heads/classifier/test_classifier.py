"""The classifier beside timm's and torchvision's models with the same random weights, and its loss."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.data.transforms.image_mixing import ImageMixing
from densevit.inference.model_creation import create_model
from densevit.interfaces import Class, LossContext
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes
from densevit_heads.classifier import Classifier

K = 7
CLASSES = [Class(f"class {i}", i, (0, 0, 0)) for i in range(K)]


def model_with_classes(library: str, name: str) -> nn.Module:
    """timm's or torchvision's, without weights."""
    if library == "torchvision":
        return getattr(importlib.import_module("torchvision.models"), name)(num_classes=K)
    return pytest.importorskip("timm").create_model(name, num_classes=K, dynamic_img_size=True)


def randomised(model: nn.Module) -> nn.Module:
    """No layer starts with weights that hide errors."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.02 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model.eval()


def with_weights_of(
    model: nn.Module, backbone: Mapping[str, Any], layers: Mapping[str, str], tokens: int, folder: Path
) -> DenseModel:
    """Our model with the backbone's weights from a file of the other, and its classifiers. layers: theirs by ours."""
    torch.save(model.state_dict(), folder / "model.pth")
    head = {"name": "classifier", "tokens": tokens}
    heads, classes = {"classes": head}, {"classes": [c.name for c in CLASSES]}
    ours = create_model(dict(backbone), heads=heads, classes=classes, weights=folder / "model.pth")
    assert isinstance(ours, DenseModel)
    for layer, name in layers.items():
        getattr(ours.heads["classes"], layer).load_state_dict(model.get_submodule(name).state_dict())
    return ours.eval()


def class_scores(model: DenseModel, images: Tensor) -> Tensor:
    """The scores of uint8 images (B, 3, H, W)."""
    size = (images.shape[2], images.shape[3])
    targets: Any = [{"size": size, "original_size": size} for _ in images]
    padding = torch.zeros(len(images), *size, dtype=torch.bool)
    found = model.infer({"images": images, "padding_mask": padding, "targets": targets})["classes"]
    assert all(int(one["image_class"]) == int(one["class_scores"].argmax()) for one in found)
    assert all(float(one["image_score"]) == float(one["class_scores"].max()) for one in found)
    return torch.stack([one["class_scores"] for one in found])


@pytest.mark.parametrize(
    ("library", "name", "backbone", "layers", "tokens", "size"),
    [
        (
            "timm",
            "deit_tiny_distilled_patch16_224",
            {"name": "vit", "variant": "tiny", "features": [12], "distillation_token": True},
            {"classifier": "head", "distillation_classifier": "head_dist"},
            2,
            (96, 128),
        ),
        ("torchvision", "resnet18", {"name": "resnet", "depth": 18}, {"classifier": "fc"}, 0, (90, 70)),
    ],
)
def test_equals_the_classifiers_of_timm_and_torchvision(
    library: str, name: str, backbone: Any, layers: dict[str, str], tokens: int, size: tuple[int, int], tmp_path: Path
) -> None:
    theirs = randomised(model_with_classes(library, name))
    ours = with_weights_of(theirs, backbone, layers, tokens, tmp_path)
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(ours.normalise(images, torch.zeros(2, *size, dtype=torch.bool))).softmax(1)
    torch.testing.assert_close(class_scores(ours, images), expected, atol=1e-4, rtol=0)
    assert expected.std(1).min() > 1e-3 and (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "smoothing"), [("mixup", 0.0), ("cutmix", 0.1)])
def test_an_image_without_class_is_unlabelled_also_in_a_mixture(kind: str, smoothing: float) -> None:
    """A mixture counts by its labelled share, in the loss and in its normaliser."""
    classes = torch.tensor([3, -1, -1, 0])
    samples: Any = [
        {
            "image": torch.zeros(3, 8, 8, dtype=torch.uint8),
            "targets": {"image_id": i, "image_class": one, "size": (8, 8)},
        }
        for i, one in enumerate(classes)
    ]
    mixed = ImageMixing(**{kind: 1.0})(samples, [1], TargetTypes())
    shares = [float(one["targets"]["image_class"][0, 1]) for one in mixed]  # of the image itself
    labels = [(3, shares[0], 0, 1 - shares[0]), (3, 1 - shares[1]), (), (0, shares[3])]
    head = Classifier((6,), (16,), CLASSES, label_smoothing=smoothing)
    logits = torch.randn(4, K, requires_grad=True)
    targets = [one["targets"] for one in mixed]
    loss = head.loss({"logits": logits}, targets, LossContext())["cross_entropy"]
    total, count = torch.zeros(()), 0.0
    for row, one in zip(logits, labels, strict=True):
        for label, share in zip(one[::2], one[1::2], strict=True):
            each = F.cross_entropy(row, torch.tensor(int(label)), label_smoothing=smoothing)
            total, count = total + share * each, count + share
    torch.testing.assert_close(loss, total / count)
    torch.testing.assert_close(*torch.autograd.grad(loss, logits), torch.autograd.grad(total / count, logits)[0])
    assert head.loss_counts(targets)["images"] == pytest.approx(count)
    alone = [{"image_class": one} for one in classes]
    assert head.loss_counts(alone) == {"images": 2}
    loss = head.loss({"logits": logits}, alone, LossContext())["cross_entropy"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, classes, ignore_index=-1, label_smoothing=smoothing))
