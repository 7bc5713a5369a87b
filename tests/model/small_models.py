"""Small backbones and heads whose predictions are computed by hand, for tests of models and of predictions."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Backbone, Batch, Class, DenseHead, Head, as_classes
from densevit.model import DenseModel, inference_by_head
from tests.small_models import Pixels

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("dog", 18, (0, 255, 0)))


class Averaged(Pixels):
    """The pixels, averaged over 8x8, with an own mean and std."""

    strides = (8,)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images, 8) * self.scale]


class Mean(Head):
    """Predicts the mean of the coarsest feature over an image and the sizes that it gets; records its targets."""

    task, required_targets = "detection", ("labels",)

    def __init__(self, channels, strides, classes, gain: float = 1.0) -> None:
        super().__init__(channels, strides, classes)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.dropout = nn.Dropout(0.5)

    def forward(self, features, padding_mask, targets=None):
        self.seen_targets = targets
        mean = self.dropout(self.gain * features[-1].mean((2, 3)))
        return {"logits": mean, "grid": torch.tensor(padding_mask.shape[1:])}

    def loss(self, outputs, targets, context):
        return {"mean": outputs["logits"].mean(), "constant": self.gain * len(targets)}

    def predict(self, outputs, targets):
        return [
            {"mean": mean, "grid": outputs["grid"], "image_id": t["image_id"], "sizes": [t["size"], t["original_size"]]}
            for mean, t in zip(outputs["logits"], targets, strict=True)
        ]


class Stem(Backbone):
    """A padded convolution: its features in windows differ from those in the whole image."""

    channels, strides = (6,), (4,)

    def __init__(self, kernel: int = 9) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, kernel, 4, padding=(kernel - 1) // 2)

    def forward(self, images):
        x = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return [self.layer(x)[..., : x.shape[2] // 4, : x.shape[3] // 4].relu()]


class Segmenter(DenseHead):
    """A 1x1 convolution; counts the images of each run."""

    task, required_targets = "segmentation", ("semantic",)

    def __init__(self, channels, strides, classes, factor: float = 3.0) -> None:
        super().__init__(channels, strides, classes)
        self.out, self.stride, self.factor = nn.Conv2d(channels[0], max(1, len(classes)), 1), strides[0], factor
        self.runs: list[tuple[int, ...]] = []

    def forward(self, features, padding_mask, targets=None):
        self.runs.append(tuple(padding_mask.shape))
        self.inside = (~padding_mask).float().mean((1, 2))
        return {"logits": self.factor * self.out(features[0])}

    def maps(self, outputs, size):
        x = outputs["logits"].float()
        x = F.interpolate(x, scale_factor=self.stride, mode="bilinear") if self.stride > 1 else x
        return x[..., : size[0], : size[1]]

    def read_maps(self, maps):
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    def predict(self, outputs, targets):
        found = []
        for i, target in enumerate(targets):
            x = self.maps({"logits": outputs["logits"][i : i + 1]}, target["size"])
            x = F.interpolate(x, target["original_size"], mode="bilinear")
            found.append({key: value[0] for key, value in self.read_maps(x).items()})
        return found


class Depth(Segmenter):
    """The maps themselves."""

    task, required_targets = "depth", ("depth",)

    def read_maps(self, maps):
        return {"depth": maps[:, 0]}


class Boxes(Head):
    """A head without maps: its box is the sum of the first feature."""

    task, required_targets = "detection", ("boxes",)

    def forward(self, features, padding_mask, targets=None):
        return {"boxes": features[0].sum((1, 2, 3))}

    def predict(self, outputs, targets):
        return [{"boxes": box.repeat(1, 4)} for box in outputs["boxes"]]


def of_heads(backbone: Backbone, **heads: type[Head]) -> DenseModel:
    """A model with heads by name."""
    features = (backbone.channels, backbone.strides)
    return DenseModel(backbone, {name: head(*features, CLASSES) for name, head in heads.items()})


def model_of(backbone, *heads, classes=5):
    kinds = {
        head.task: head(backbone.channels, backbone.strides, () if head is Depth else as_classes(classes))
        for head in heads
    }
    return DenseModel(backbone, kinds).eval()


def batch_of(model, *sizes, original=None):
    """Smooth images of these sizes, padded to one multiple."""
    samples = []
    for i, (h, w) in enumerate(sizes):
        noise = torch.rand(1, 3, h // 4 + 2, w // 4 + 2, generator=torch.Generator().manual_seed(i))
        image = (255 * F.interpolate(noise, (h, w), mode="bilinear")[0]).to(torch.uint8)
        targets = {"image_id": i, "size": (h, w), "original_size": original or (h, w)}
        samples.append({"image": image, "targets": targets})
    return collate(samples, model.size_divisor)


def inferred(model: DenseModel, batch: Batch, inference: Mapping[str, InferenceSection]) -> dict[str, Any]:
    """The predictions of a batch with these options by head."""
    part = copy.copy(model)
    part.inference = dict(inference)
    return part.infer(batch)


def infer(model, batch, section):
    """Predictions with these options for every head that makes maps."""
    return inferred(model, batch, inference_by_head(model, section))


@torch.no_grad()
def depth_of(model, batch, **section):
    return [found["depth"] for found in infer(model, batch, InferenceSection(**section))["depth"]]
