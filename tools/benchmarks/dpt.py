"""Compares DPT for depth with transformers', forward and backward, on a ViT-B/16 at 384 x 384: head and complete model.

Both have the same sizes and layers (`tests/weights/layouts/test_transformers_models.py` checks that their outputs are
equal); the class token is ignored, so a head gets only maps. Rounds are interleaved, so that other load on the machine
slows both equally.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import DPTConfig, DPTForDepthEstimation

import densevit
from densevit.registry import create

SIDE, BLOCKS, REASSEMBLED = 384, (3, 6, 9, 12), (96, 192, 384, 768)
Step = Callable[[], Tensor]


def ours(batch: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Backbone, head and the mask of a batch without padding."""
    options: dict[str, Any] = {
        "variant": "base",
        "image_size": SIDE,
        "features": BLOCKS,
        "feature_norm": False,
        "drop_path": 0.0,
    }
    backbone = densevit.create_backbone("vit", **options)
    head = create(
        "heads",
        "dpt",
        backbone.channels,
        backbone.strides,
        (),
        options={"output": "relative", "width": 256, "reassemble_channels": REASSEMBLED, "norm": "none"},
        where="heads.depth",
    )
    return backbone, head, torch.zeros(batch, SIDE, SIDE, dtype=torch.bool)


def theirs() -> DPTForDepthEstimation:
    config = DPTConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        image_size=SIDE,
        backbone_out_indices=[block - 1 for block in BLOCKS],
        neck_hidden_sizes=list(REASSEMBLED),
        fusion_hidden_size=256,
        readout_type="ignore",
    )
    return DPTForDepthEstimation(config)


def cases(batch: int) -> dict[str, tuple[Step, Step]]:
    """The measured steps, ours and theirs; each returns a map."""
    backbone, head, mask = ours(batch)
    reference = theirs()
    side = SIDE // 16
    maps = [torch.randn(batch, 768, side, side, requires_grad=True) for _ in BLOCKS]
    tokens = [torch.randn(batch, 1 + side * side, 768, requires_grad=True) for _ in BLOCKS]
    images = torch.randn(batch, 3, SIDE, SIDE)

    def own_head(features: list[Tensor]) -> Tensor:
        return next(iter(head(features, mask).values()))

    return {
        "head": (lambda: own_head(maps), lambda: reference.head(reference.neck(tokens, side, side))),
        "whole": (lambda: own_head(backbone(images)), lambda: reference(images).predicted_depth),
    }


def seconds(step: Step, train: bool, precision: torch.dtype) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(train), torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        result = step()
        if train:
            result.float().sum().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table("", "pass", "precision", "transformers, ms", "densevit, ms", "ratio")
    for name, steps in cases(args.batch).items():
        for train in (False, True):
            for precision in (torch.float32, torch.bfloat16):
                times = [[seconds(step, train, precision) for step in steps] for _ in range(args.rounds + 1)][1:]
                own, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
                ratio = statistics.median(b / a for a, b in times)
                kind = "training step" if train else "inference"
                table.add_row(
                    name, kind, str(precision).removeprefix("torch."), f"{other:.0f}", f"{own:.0f}", f"{ratio:.2f}"
                )
    Console().print(f"torch {torch.__version__}, batch {args.batch}, {SIDE} x {SIDE}", table)


if __name__ == "__main__":
    main()
