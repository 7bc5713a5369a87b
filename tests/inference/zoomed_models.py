"""A model that predicts exactly what training teaches for a constant scene, whose zoom it reads from the image."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import densevit
from densevit import config as configs
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit.targets import ValueMap
from densevit.weights import model_file
from tests.built_models import build_model
from tests.counted_dataset import CountedDataset
from tests.model import small_models

VALUE, SIDE = 4.0, 64  # of the scene; the evaluation's long side in the training, if not stated
FOCAL, CANONICAL = 200.0, 300.0  # pixels: of the image, and of the canonical camera
HEIGHT, WIDTH = 128, 256
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # red and green show pixels of the original image
SIZES: list[Any] = [None, 128, (40, 96), "source"]
BOX = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
IMAGE[..., 0], IMAGE[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]


class Distances(densevit.TargetType):
    """(N,) metres, a value per object."""

    per, under_zoom = "object", "divide"

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        return value / np.float32(zoom)


TYPES: dict[str, densevit.TargetType | None] = {
    "depth": None,  # as registered
    "inverse_depth": None,
    "far": ValueMap("divide"),
    "near": ValueMap("multiply"),
    "kept": ValueMap(),
    "canonical": ValueMap("divide"),
    "distances": Distances(),
}
MAPS = [key for key in TYPES if key != "distances"]
MASKED = ("near", "canonical")  # of heads that read a mask from their maps too


class Pixels(small_models.Pixels):
    mean, std = (0.0,) * 3, (1.0,) * 3


def seen_zoom(images: Tensor, padding_mask: Tensor, side: int) -> Tensor:
    """(B,): the square root of the scales of both sides, from the slopes of red and green, relative to this side."""
    inside = (~padding_mask).float()
    slopes = []
    for channel, axis in ((0, 2), (1, 1)):
        levels, valid = 255 * images[:, channel], inside.narrow(axis, 1, inside.shape[axis] - 1)
        steps = (levels.narrow(axis, 1, levels.shape[axis] - 1) - levels.narrow(axis, 0, levels.shape[axis] - 1)).abs()
        slopes.append((steps * valid).sum((1, 2)) / valid.sum((1, 2)))
    return (slopes[0] * slopes[1]).rsqrt() * WIDTH / side


def taught(key: str, zoom: Tensor, canonical_focal: float | None = None, side: int = SIDE) -> Tensor:
    """The label of the scene after training's transforms."""
    if canonical_focal is not None:
        return VALUE * canonical_focal / (FOCAL * zoom * side / WIDTH)
    if key in ("inverse_depth", "near"):
        return VALUE * zoom
    return torch.full_like(zoom, VALUE) if key == "kept" else VALUE / zoom


class TaughtMap(densevit.DenseHead):
    """Predicts a map of one key."""

    task, required_targets = "depth", ("depth",)

    def __init__(
        self,
        channels: Any,
        strides: Any,
        classes: Any = (),
        key: str = "depth",
        side: int = SIDE,
        canonical_focal: float | None = None,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.key, self.side, self.target_types = key, side, {key: TYPES[key]}
        self.canonical_focal = CANONICAL if key == "canonical" else canonical_focal

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: Any = None) -> Any:
        zoom = seen_zoom(features[0], padding_mask, self.side)
        value = taught(self.key, zoom, self.canonical_focal, self.side)
        return {"maps": value[:, None, None, None] * (1 + features[0][:, 2:])}  # the scene has no blue

    def maps(self, outputs: Any, size: Size) -> Tensor:
        return outputs["maps"][..., : size[0], : size[1]].float()

    def read_maps(self, maps: Tensor) -> Any:
        return {self.key: maps[:, 0]} | ({"mask": (maps[:, 0] > 0).byte()} if self.key in MASKED else {})

    def predict(self, outputs: Any, targets: Any) -> Any:
        resized = (
            F.interpolate(x[None], tuple(target["original_size"]), mode="bilinear")
            for x, target in zip(outputs["maps"], targets, strict=True)
        )
        return [{key: values[0] for key, values in self.read_maps(maps).items()} for maps in resized]


class TaughtObject(densevit.Head):
    """Predicts the distance of an object."""

    task, required_targets, target_types = "detection", ("boxes", "labels"), {"distances": TYPES["distances"]}

    def __init__(self, channels: Any, strides: Any, classes: Any = (), side: int = SIDE) -> None:
        super().__init__(channels, strides, classes)
        self.side = side

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: Any = None) -> Any:
        return {"distances": taught("distances", seen_zoom(features[0], padding_mask, self.side))}

    def predict(self, outputs: Any, targets: Any) -> Any:
        return [
            {"boxes": BOX, "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.long), "distances": x[None]}
            for x in outputs["distances"]
        ]

    def exported(self, outputs: Any, size: Size, original_size: Size | None = None) -> Any:
        return {"distances": outputs["distances"][:, None]}

    def predict_exported(self, exported: Any, targets: Any) -> Any:
        return self.predict({"distances": exported["distances"][:, 0]}, targets)


class Scene(CountedDataset):
    """The image, with its depth."""

    classes: ClassVar[Any] = {"detection": (densevit.Class("thing", 1, (0, 0, 0)),)}
    provides = ("depth", "boxes", "labels")

    def __init__(self, split: str) -> None:
        pass

    def __getitem__(self, index: int) -> Any:
        targets = {
            "image_id": 1,
            "depth": torch.full((HEIGHT, WIDTH), VALUE),
            "focal": FOCAL,
            "boxes": BOX,
            "labels": torch.zeros(1, dtype=torch.long),
            "area": torch.ones(1),
            "iscrowd": torch.zeros(1, dtype=torch.bool),
        }
        return {"image": torch.from_numpy(IMAGE).permute(2, 0, 1).contiguous(), "targets": targets}


def head_of(key: str, side: int) -> dict[str, Any]:
    if key == "distances":
        return {"name": f"{__name__}:TaughtObject", "side": side}
    return {"name": f"{__name__}:TaughtMap", "key": key, "side": side}


def write_model(folder: Path, keys: Any, side: int = SIDE, **changes: Any) -> DenseModel:
    """Writes the run of a model that was trained at this size, with a head for each key."""
    data = {"name": f"{__name__}:Scene", "image_size": side, "batch_size": 1, "num_workers": 0}
    backbone = {"name": f"{__name__}:Pixels", "freeze": True}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": "32", **changes.pop("trainer", {})}
    heads = {key: {**head_of(key, side), **changes.pop("head", {})} for key in keys}
    config = configs.from_mapping({"backbone": backbone, "heads": heads, "data": data, "trainer": trainer, **changes})
    model = build_model(config, Scene("train")).eval()
    folder.mkdir()
    model_file.save(model, folder / "model.safetensors")
    (folder / "config.yaml").write_text(configs.dump(config))
    return model


def check(predictions: Any, keys: Any = tuple(TYPES)) -> None:
    """predictions: by head, whose names are the keys."""
    found = {key: float(np.median(np.asarray(predictions[key][key]))) for key in keys}
    assert found == pytest.approx(dict.fromkeys(keys, VALUE), rel=0.05)


def predicted(predictor: DenseModel, **options: Any) -> Any:
    options |= {"focal": FOCAL} if predictor.canonical_focals else {}
    return predictor.predict(IMAGE, threshold=0, **options).predictions
