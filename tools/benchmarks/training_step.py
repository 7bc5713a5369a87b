"""Compares training steps of DETR and Deformable DETR with transformers': time and peak memory, on a CPU or a GPU.

A step is forward, matching, losses of all decoder layers, backward, clipping of gradients and AdamW (fused in both), on
a ResNet-50 with frozen batch norm, stem and first stage, from random weights. densevit's step starts from uint8 images,
transformers' from normalised images, with the paper's dropout of attention weights and of the FFN's hidden layer.
"""

from functools import partial
from typing import Any

import torch
from gpu_parts.training import DTYPES, Step
from interleaved import measure, milliseconds, parsed, parser, peak_memory, ratio, show, table
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, DetrConfig, DetrForObjectDetection

from densevit.config import load
from densevit.interfaces import Class
from densevit.model import build_from_sections

CONFIG = "configs/coco/detr_r50.yaml"
CLASSES = 91
OBJECTS = (5, 9)  # per image, at least and at most
QUERIES = {"detr": 100, "deformable_detr": 300}


def images_and_targets(batch: int, side: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """uint8 images (B, 3, H, W), and for each image boxes (N, 4) as normalised cxcywh, and labels (N,)."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=random)
    counts = torch.randint(OBJECTS[0], OBJECTS[1] + 1, (batch,), generator=random).tolist()
    boxes = [torch.rand(n, 4, generator=random) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05]) for n in counts]
    return images, boxes, [torch.randint(CLASSES, (n,), generator=random) for n in counts]


def densevit_step(head: str, batch: int, side: int, precision: str, device: str) -> Step:
    config = load(CONFIG, [f"heads.detection.name={head}", f"heads.detection.num_queries={QUERIES[head]}"])
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(CLASSES)]
    model = build_from_sections(config, {"detection": classes}, pretrained=False)
    images, boxes, labels = images_and_targets(batch, side)
    corners = [torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) * side for x in boxes]
    targets = [
        {"boxes": x, "labels": y, "size": (side, side), "image_id": i}
        for i, (x, y) in enumerate(zip(corners, labels, strict=True))
    ]
    mask = torch.zeros(batch, side, side, dtype=torch.bool)
    inputs = {"images": images, "padding_mask": mask, "targets": targets}
    return Step.of(model, inputs, precision, torch.device(device))


def transformers_step(head: str, batch: int, side: int, precision: str, device: str) -> Step:
    options: dict[str, Any] = {"num_labels": CLASSES, "auxiliary_loss": True, "num_queries": QUERIES[head]}
    options |= {"attention_dropout": 0.1, "activation_dropout": 0.1}
    model: Any
    if head == "detr":
        model = DetrForObjectDetection(DetrConfig(**options))
    else:
        model = DeformableDetrForObjectDetection(DeformableDetrConfig(class_cost=2, **options))
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(any(stage in name for stage in ("layer2", "layer3", "layer4")))
    model.to(device).train()
    images, boxes, labels = images_and_targets(batch, side)
    pixels = (images.to(device).float() - 127.5) / 57.5
    mask = torch.ones(batch, side, side, dtype=torch.long, device=device)
    targets = [{"class_labels": y.to(device), "boxes": x.to(device)} for x, y in zip(boxes, labels, strict=True)]
    return Step(model, lambda: model(pixels, pixel_mask=mask, labels=targets).loss, precision, torch.device(device))


def main() -> None:
    options = parser(__doc__, rounds=7)
    options.add_argument("heads", nargs="*", default=[*QUERIES], metavar="HEAD", help="detr, deformable_detr")
    options.add_argument("--precision", nargs="+", choices=tuple(DTYPES), default=["fp32", "bf16"])
    options.add_argument("--batch-size", type=int, default=2)
    options.add_argument("--size", type=int, default=512, help="height and width of images")
    options.add_argument("--memory", action="store_true", help="peak memory, each in a separate process (Linux)")
    args = parsed(options)
    title = f"Training step, batch {args.batch_size}, {args.size}x{args.size}"
    headings = ("case", "densevit, ms", "transformers, ms", "ratio", "peak MB: densevit", "transformers")
    comparison = table(title, args, *headings, libraries=("transformers", "timm"))
    for head in args.heads:
        for precision in args.precision:
            arguments = (head, args.batch_size, args.size, precision, args.device)
            peers = {"densevit": densevit_step, "transformers": transformers_step}
            times = measure({name: make(*arguments) for name, make in peers.items()}, args.rounds)
            memory = [f"{peak_memory(make, *arguments):.0f}" for make in peers.values()] if args.memory else []
            figures = [*map(partial(milliseconds, times), peers), ratio(times, "transformers", "densevit")]
            comparison.add_row(f"{head}, {precision}", *figures, *memory)
    show(comparison)


if __name__ == "__main__":
    main()
