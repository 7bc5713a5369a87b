"""AP on 100 rendered scenes of models that get more queries than their weights have, before and after further training.

python -m tests.heads.more_queries [HEAD ...]: prints the rows of docs/development/queries.md.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import densevit
from densevit.interfaces import Batch
from densevit.model import DenseModel

QUERIES, STEPS = 25, 200  # of the weights; of the further training
DATA = {"name": "scenes", "image_size": 64, "batch_size": 16, "transforms": "resize", "train_length": 100}
DATA |= {"val_split": "train", "semantic": False, "depth": False, "num_workers": 0}
TRANSFORMER = {
    "width": 64,
    "num_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "feedforward": 256,
    "dropout": 0.0,
}
EXTENSIONS = {"stride": 8, "fusion_blocks": 1, "position_bias": True, "contrastive_denoising": 15}
EXTENSIONS |= {"look_forward_twice": True, "dense_loss": 4.0}
DAB_DETR = {"name": "dab_detr", "transformer": TRANSFORMER, "costs": {"label": 1.0, "l1": 5.0, "giou": 2.0}}
DAB_DETR |= {"classification": "mal", "extensions": EXTENSIONS}
HEADS: dict[str, tuple[dict[str, Any], int, float]] = {  # the head, training steps and the learning rate
    "dab_detr, two-stage": ({**DAB_DETR, "extensions": {**EXTENSIONS, "two_stage": True}}, 300, 2e-3),
    "mask2former_instance": (
        {
            "name": "mask2former_instance",
            "transformer": {"width": 64, "num_heads": 4, "decoder_layers": 3, "feedforward": 256},
            "pixel_decoder": {"layers": 1, "feedforward": 128, "fusion_blocks": 1},
            "num_points": 256, "semantic_loss": 5.0, "evaluation": {"name": "coco_masks"},
        }, 400, 2e-3,
    ),
    "dab_detr": (DAB_DETR, 450, 2e-3),
    "detr": ({"name": "detr", "transformer": TRANSFORMER}, 800, 1e-3),
}  # fmt: skip


class Small(densevit.Backbone):
    """Convolutions with features of stride 8 and 16."""

    channels, strides = (64, 128), (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_block(3, 32, 4, 4), *_block(32, 32))
        self.stage1 = nn.Sequential(*_block(32, 64, 3, 2), *_block(64, 64))
        self.stage2 = nn.Sequential(*_block(64, 128, 3, 2), *_block(128, 128))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stage1(self.stem(images))
        return [x, self.stage2(x)]


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Sequence[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if kernel % 2 else 0, bias=False)
    return convolution, nn.GroupNorm(8, outputs), nn.ReLU()


class Scenes:
    """The 100 scenes, rendered once."""

    def __init__(self, masks: bool) -> None:
        self.data = {**DATA, "masks": masks}
        dataset = densevit.build_data(self.data).train
        self.classes = dataset.classes["detection"]
        self.samples = [dataset[i] for i in range(len(dataset))]

    def batch(self, indices: Sequence[int]) -> Batch:
        images = torch.stack([self.samples[i]["image"] for i in indices])
        size = (images.shape[2], images.shape[3])
        targets: Any = [{"size": size, "original_size": size, **self.samples[i]["targets"]} for i in indices]
        return {
            "images": images,
            "padding_mask": torch.zeros(len(indices), *size, dtype=torch.bool),
            "targets": targets,
        }


def model_of(head: str, scenes: Scenes, num_queries: int, weights: Path | None = None, seed: int = 0) -> DenseModel:
    torch.manual_seed(seed)
    backbone, section = {"name": f"{Small.__module__}:Small"}, {**HEADS[head][0], "num_queries": num_queries}
    return densevit.create_model(backbone, {"head": section}, scenes.classes, weights=weights)


def train(model: DenseModel, scenes: Scenes, steps: int, lr: float, seed: int) -> DenseModel:
    """AdamW with a cosine schedule and a warmup, batches of 16."""
    parameters = [*model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    generator, order = torch.Generator().manual_seed(seed), list[int]()
    torch.manual_seed(seed)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / (0.05 * steps)) * (1 + math.cos(math.pi * step / steps)) / 2
        if len(order) < 16:
            order = torch.randperm(len(scenes.samples), generator=generator).tolist()
        indices, order = order[:16], order[16:]
        optimizer.zero_grad()
        torch.stack([*model.loss(scenes.batch(indices)).values()]).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model


def ap(model: DenseModel, scenes: Scenes) -> float:
    return densevit.evaluate(model.eval(), scenes.data)["head/AP"]


def scores(head: str, folder: Path, counts: Sequence[int], trained: Sequence[int]) -> dict[str, float]:
    """AP of the small model and of models with more queries; of those in `trained` also after `STEPS` steps.

    counts: numbers of queries.
    """
    scenes, path = Scenes("mask" in head), folder / "model.safetensors"
    small = train(model_of(head, scenes, QUERIES), scenes, *HEADS[head][1:], seed=0)
    densevit.save(small, path)
    result = {f"{QUERIES}": ap(small, scenes)}
    for count in counts:
        result[f"{count}"] = ap(model_of(head, scenes, count, path), scenes)
    for count in trained:
        model = train(model_of(head, scenes, count, path), scenes, STEPS, 5e-4, seed=1)
        result[f"{count}, trained"] = ap(model, scenes)
    return result


def main(heads: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for head in heads or HEADS:
            result = scores(head, Path(folder), (30, 50, 75), (QUERIES, 50))
            print(f"| {head} | " + " | ".join(f"{value:.3f}" for value in result.values()) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
