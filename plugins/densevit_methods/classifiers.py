"""Frozen image classifiers as teachers: models of densevit, and timm's published ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit import DenseModel
from densevit.errors import WeightsError
from densevit.interfaces import Batch
from densevit_backbones.hub_files import pretrained_model


class DenseClassifier(nn.Module):
    """The classification head of a densevit model. class_names: the head's classes."""

    def __init__(self, model: DenseModel, head: str) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.class_names = [cls.name for cls in model.classes[head]]

    def forward(self, batch: Batch) -> Tensor:
        """Returns log-probabilities (B, K) float32."""
        outputs = self.model(batch, [self.head])
        predictions = self.model.predictions(outputs, batch["targets"])[self.head]
        scores = torch.stack([prediction["class_scores"] for prediction in predictions]).float()
        return scores.clamp(min=torch.finfo(scores.dtype).tiny).log()


class TimmClassifier(nn.Module):
    """A published classifier of timm with all of its layers.

    source: `timm:NAME[.TAG]`, weights for the classes of ImageNet-1k, ImageNet-12k, ImageNet-21k or ImageNet-22k.
    class_names: the classes by their folders in ImageNet, such as n01440764.

    Padding is 0 after normalisation, as for a zero-padded convolution. A model of a fixed size gets images resized to
    it. Raises WeightsError for weights that cannot be loaded, and for other classes.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        name, fix_hint = source.partition(":")[2].strip(), f"name a downloaded file or folder in place of {source}"
        weights = pretrained_model(source, name, fix_hint).state_dict()
        import timm  # optional; without it, pretrained_model raises an error that says so
        from timm.data import ImageNetInfo, infer_imagenet_subset

        net: Any = timm.create_model(name)
        net.load_state_dict(weights)
        subset = infer_imagenet_subset(net)
        if subset is None:
            raise WeightsError(
                f"{source} has {net.num_classes} classes, and timm does not know their names. Fix: name weights for "
                "ImageNet, or train a classifier of your own classes as the teacher."
            )
        config = net.pretrained_cfg
        self.net = net
        self.class_names: list[str] = ImageNetInfo(subset).label_names()
        self.size: tuple[int, int] | None = tuple(config["input_size"][-2:]) if config["fixed_input_size"] else None
        self.mean: Tensor
        self.std: Tensor
        for key in ("mean", "std"):
            self.register_buffer(key, 255 * torch.tensor(config[key])[:, None, None], persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits (B, K) float32. batch: "images" uint8 (B, 3, H, W), "padding_mask" (B, H, W)."""
        images = ((batch["images"] - self.mean) / self.std).masked_fill(batch["padding_mask"][:, None], 0.0)
        if self.size not in (None, images.shape[-2:]):
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        logits: Tensor = self.net(images)
        return logits.float()
