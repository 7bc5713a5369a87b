"""Small models, batches without labels and data with few labels, for the tests of training methods."""

from typing import Any

import torch
from torch import Tensor, nn

import densevit
from densevit.config import Config, from_mapping
from densevit.interfaces import Batch
from tests.built_models import build_model
from tests.padded_batches import padded

BACKBONES: dict[str, dict[str, Any]] = {
    "swin": {"name": "swin", "variant": "nano", "window_size": 4, "drop_path": 0.0},
    "vit": {"name": "vit", "variant": "nano", "drop_path": 0.0, "image_size": 64},
    "mvit": {"name": "mvit", "variant": "nano", "drop_path": 0.0},
    "resnet": {"name": "resnet", "depth": 18},
}
SIZES = ((64, 96), (40, 50))
SETR = {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": [], "norm": "group"}
DEPTH = {"name": "dpt", "output": "sigmoid", "max_depth": 60, "width": 16, "norm": "none"}
SCENES = {"name": "scenes", "image_size": [40, 64], "train_length": 6, "val_length": 2}
FEW_LABELS: dict[str, Any] = {  # of an image of three in each batch
    "name": "mix", "image_size": [40, 64], "batch_size": 3, "num_workers": 0,
    "sets": {"few": {**SCENES, "train_length": 2, "per_batch": 1},
             "many": {**SCENES, "seed": 1, "per_batch": 2, "provides": []}},
}  # fmt: skip


def config(method: dict[str, Any], backbone: str = "swin", **sections: Any) -> Config:
    values: dict[str, Any] = {
        "backbone": BACKBONES[backbone], "heads": {}, "method": method,
        "data": {"name": "scenes", "image_size": 64, "train_length": 6, "val_length": 2, "batch_size": 2},
        "trainer": {"max_steps": 2, "precision": "32", "accelerator": "cpu", "log_every": 1, "evaluations": 1},
    }  # fmt: skip
    return from_mapping({**values, **sections})


def built(name: str, backbone: str = "swin", **options: Any) -> tuple[Any, Any]:
    """A model and its method in training mode; no parameter is only zeros."""
    torch.manual_seed(0)
    model = build_model(config({"name": name, **options}, backbone), {})
    method = densevit.create_method(name, model, **options)
    return randomised(model).train(), randomised(method).train()


def randomised(module: Any, std: float = 0.02) -> Any:
    """Replaces zeros."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return module


def batch_of(*sizes: tuple[int, int], seed: int = 0) -> Batch:
    """Random images of these sizes, padded to the largest."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    return padded(images, f"{seed}-{{}}")


def views_of(*sides: int, count: int = 2) -> Batch:
    """A batch with views, each of `count` square images of this side."""
    first, *others = (batch_of(*[(side, side)] * count, seed=i) for i, side in enumerate(sides))
    return {**first, "other_views": others}


def normalised(model: Any, batch: Batch) -> Tensor:
    """The backbone's input, in float64 and by hand."""
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (model.backbone.mean, model.backbone.std))
    pixels = (batch["images"].double() / 255 - mean) / std
    return torch.where(batch["padding_mask"][:, None], 0.0, pixels)
