"""Whole training steps of DETR and Deformable DETR beside transformers': time and peak memory, in one run.

A step is forward, matching, losses of all decoder layers, backward, clipping of gradients and AdamW (fused in both), on
a ResNet-50 with frozen batch norm, stem and first stage, from random weights. densevit's starts from uint8 images,
transformers' from normalised ones. `--their-dropout defaults` leaves out their dropout of attention weights and of the
FFN's hidden layer, which DETR (both) and Deformable DETR (the second, and the decoder's self-attention) have. Rounds
are interleaved: other load slows both alike. The ratio is the median of the rounds' own ratios.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
)

from densevit.config import OptimSection, load
from densevit.interfaces import Class
from densevit.model import DenseModel, create_backbone, create_head
from densevit.training.optim import build_optimizer

CONFIG = "configs/coco/detr_r50.yaml"  # backbone and optimiser of both
CLASSES = 91
OBJECTS = (5, 9)  # of an image, at least and at most
MAX_NORM = 0.1  # of gradients
Step = Callable[[], Tensor]  # returns the loss


def images_and_targets(batch: int, side: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """uint8 images (B, 3, H, W), and boxes (N, 4) as normalised cxcywh and labels (N,) of each."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=random)
    counts = torch.randint(OBJECTS[0], OBJECTS[1] + 1, (batch,), generator=random).tolist()
    boxes = [torch.rand(n, 4, generator=random) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05]) for n in counts]
    return images, boxes, [torch.randint(CLASSES, (n,), generator=random) for n in counts]


def ours(head: str, batch: int, side: int) -> Step:
    config = load(CONFIG, [f"heads.detection.name={head}", f"heads.detection.num_queries={_queries(head)}"])
    section = config.model_sections.backbone
    backbone = create_backbone(section.name, **section.options)
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(CLASSES)]
    options = config.model_sections.heads["detection"].options
    model = DenseModel(
        backbone, {"detection": create_head(head, backbone.channels, backbone.strides, classes, **options)}
    ).train()
    optimizer = build_optimizer(model, config.optim, _lr(config.optim))
    images, boxes, labels = images_and_targets(batch, side)
    scale = torch.tensor([side, side, side, side])
    corners = [torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) * scale for x in boxes]
    targets: list[dict[str, Any]] = [
        {"boxes": x, "labels": y, "size": (side, side), "image_id": i}
        for i, (x, y) in enumerate(zip(corners, labels, strict=True))
    ]
    inputs: Any = {"images": images, "padding_mask": torch.zeros(batch, side, side, dtype=torch.bool)}
    inputs["targets"] = targets

    def loss() -> Tensor:
        return torch.stack(list(model.loss(model(inputs), inputs["targets"]).values())).sum()

    return _step(model, optimizer, loss)


def theirs(head: str, batch: int, side: int, same_dropout: bool) -> Step:
    options: dict[str, Any] = {"num_labels": CLASSES, "auxiliary_loss": True, "num_queries": _queries(head)}
    options |= {"attention_dropout": 0.1, "activation_dropout": 0.1} if same_dropout else {}
    model: Any
    if head == "detr":
        model = DetrForObjectDetection(DetrConfig(**options))
    else:
        model = DeformableDetrForObjectDetection(DeformableDetrConfig(class_cost=2, **options))
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(any(stage in name for stage in ("layer2", "layer3", "layer4")))
    section = load(CONFIG).optim
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trainable if ".backbone." not in name], "lr": _lr(section)},
        {"params": [p for name, p in trainable if ".backbone." in name], "lr": section.backbone_lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=section.weight_decay, fused=True)
    images, boxes, labels = images_and_targets(batch, side)
    pixels, mask = (images.float() - 127.5) / 57.5, torch.ones(batch, side, side, dtype=torch.long)
    targets = [{"class_labels": y, "boxes": x} for x, y in zip(boxes, labels, strict=True)]
    return _step(model.train(), optimizer, lambda: model(pixels, pixel_mask=mask, labels=targets).loss)


def _queries(head: str) -> int:
    return 100 if head == "detr" else 300


def _lr(section: OptimSection) -> float:
    assert section.lr is not None
    return section.lr


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Step) -> Step:
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step() -> Tensor:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        return value.detach()

    return step


def make(peer: str, head: str, args: argparse.Namespace) -> Step:
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if peer == "densevit":
        return ours(head, args.batch_size, args.size)
    return theirs(head, args.batch_size, args.size, args.their_dropout == "same")


def run(step: Step, low: bool) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = step()
    seconds = time.perf_counter() - start
    if not loss.isfinite():
        raise SystemExit(f"The loss is {loss.item()}.")
    return seconds


def peak_memory(peer: str, head: str, low: bool, args: argparse.Namespace) -> float:
    """MB that three training steps add to a process that has built the model, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (peer, head, low, args))


def _peak_memory(peer: str, head: str, low: bool, args: argparse.Namespace) -> float:
    step = make(peer, head, args)
    before = _high_water()
    for _ in range(3):
        run(step, low)
    return (_high_water() - before) / 1e3


def _high_water() -> int:
    """The most memory, in kB, that this process has held. `ru_maxrss` would begin at its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def compare(head: str, precisions: Sequence[str], args: argparse.Namespace, table: Table) -> None:
    peers = ("densevit", "transformers")
    steps = {peer: make(peer, head, args) for peer in peers}
    for precision in precisions:
        low = precision == "bf16"
        for step in steps.values():
            run(step, low)
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in track(range(args.rounds), f"{head} {precision}", console=Console(stderr=True), transient=True):
            for peer in peers:
                times[peer].append(run(steps[peer], low))
        ratios = [b / a for a, b in zip(times["densevit"], times["transformers"], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f})"
        for peer in peers:
            cells = [f"{1000 * statistics.median(times[peer]):.0f}", f"{1000 * min(times[peer]):.0f}"]
            cells.append(ratio if peer == "densevit" else "")
            cells.append(f"{peak_memory(peer, head, low, args):.0f}" if args.memory else "")
            table.add_row(f"{head} {precision}", peer, *cells)
        table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    heads = ("detr", "deformable_detr")
    parser.add_argument("heads", nargs="*", default=heads, metavar="HEAD", help="detr, deformable_detr")
    parser.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="height and width of images")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--their-dropout", choices=("same", "defaults"), default="same")
    parser.add_argument("--memory", action="store_true", help="peak memory, each in a process of its own (Linux)")
    args = parser.parse_args()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "timm"))
    title = f"Training step, batch {args.batch_size}, {args.size}x{args.size}; {versions}"
    table = Table("case", "by", "ms", "least ms", "ratio", "peak MB", title=title)
    for head in args.heads:
        compare(head, ("fp32", "bf16") if args.precision == "both" else (args.precision,), args, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
