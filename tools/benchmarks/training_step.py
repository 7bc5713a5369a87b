"""Compares training steps of DETR and Deformable DETR with transformers': time and peak memory, on a CPU or a GPU.

A step is forward, matching, losses of all decoder layers, backward, clipping of gradients and AdamW (fused in both), on
a ResNet-50 with frozen batch norm, stem and first stage, from random weights. densevit's step starts from uint8 images,
transformers' from normalised images. `--their-dropout defaults` leaves out their dropout of attention weights and of
the FFN's hidden layer, which DETR (both) and Deformable DETR (the second, and the decoder's self-attention) have.
Rounds are interleaved: other load slows both equally. The ratio is the median of the rounds' ratios. `--breakdown`
shows the share of each part of densevit's step, with a synchronisation after each part. The time for which a training
waits for data is in the column `system/data_wait` of its metrics.csv.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
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
from densevit.model import build_from_sections
from densevit.training.loop.optim import optimizer_of

CONFIG = "configs/coco/detr_r50.yaml"  # backbone and optimiser of both
CLASSES = 91
OBJECTS = (5, 9)  # per image, at least and at most
MAX_NORM = 0.1  # of gradients
DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # of autocast
Part = Callable[[str], None]  # called with the name of a part of the step at its end
Step = Callable[[Part], Tensor]  # returns the loss


def images_and_targets(batch: int, side: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """uint8 images (B, 3, H, W), and for each image boxes (N, 4) as normalised cxcywh, and labels (N,)."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=random)
    counts = torch.randint(OBJECTS[0], OBJECTS[1] + 1, (batch,), generator=random).tolist()
    boxes = [torch.rand(n, 4, generator=random) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05]) for n in counts]
    return images, boxes, [torch.randint(CLASSES, (n,), generator=random) for n in counts]


def ours(head: str, batch: int, side: int, dtype: torch.dtype | None, device: torch.device) -> Step:
    config = load(CONFIG, [f"heads.detection.name={head}", f"heads.detection.num_queries={_queries(head)}"])
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(CLASSES)]
    model = build_from_sections(config, {"detection": classes}, pretrained=False).to(device)
    optimizer = optimizer_of(model, config.optim, _lr(config.optim), dtype == torch.float16)
    images, boxes, labels = images_and_targets(batch, side)
    scale = torch.tensor([side, side, side, side])
    corners = [torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) * scale for x in boxes]
    targets: list[dict[str, Any]] = [
        {"boxes": x.to(device), "labels": y.to(device), "size": (side, side), "image_id": i}
        for i, (x, y) in enumerate(zip(corners, labels, strict=True))
    ]
    mask = torch.zeros(batch, side, side, dtype=torch.bool, device=device)
    inputs: Any = {"images": images.to(device), "padding_mask": mask, "targets": targets}

    def loss(part: Part) -> Tensor:
        outputs = model(inputs)
        part("forward")
        value = torch.stack(list(model.loss(outputs, inputs["targets"]).values())).sum()
        part("matching and losses")
        return value

    return make_step(model, optimizer, loss, dtype, device)


def theirs(
    head: str, batch: int, side: int, same_dropout: bool, dtype: torch.dtype | None, device: torch.device
) -> Step:
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
    model.to(device)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trainable if ".backbone." not in name], "lr": _lr(section)},
        {"params": [p for name, p in trainable if ".backbone." in name], "lr": section.backbone_lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=section.weight_decay, fused=dtype != torch.float16)
    images, boxes, labels = images_and_targets(batch, side)
    pixels = (images.to(device).float() - 127.5) / 57.5
    mask = torch.ones(batch, side, side, dtype=torch.long, device=device)
    targets = [{"class_labels": y.to(device), "boxes": x.to(device)} for x, y in zip(boxes, labels, strict=True)]
    return make_step(
        model.train(), optimizer, lambda part: model(pixels, pixel_mask=mask, labels=targets).loss, dtype, device
    )


def _queries(head: str) -> int:
    return 100 if head == "detr" else 300


def _lr(section: OptimSection) -> float:
    assert section.lr is not None
    return section.lr


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Step, dtype: torch.dtype | None, device: torch.device
) -> Step:
    parameters = [p for p in model.parameters() if p.requires_grad]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(part: Part) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            value = loss(part)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        part("backward")
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        part("clipping and optimiser")
        return value.detach()

    return step


def make(peer: str, head: str, precision: str, args: argparse.Namespace) -> Step:
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device, dtype = torch.device(args.device), DTYPES[precision]
    if peer == "densevit":
        return ours(head, args.batch_size, args.size, dtype, device)
    return theirs(head, args.batch_size, args.size, args.their_dropout == "same", dtype, device)


def wait(device: str) -> None:
    """Waits until the device has completed all work."""
    if device != "cpu":
        torch.accelerator.synchronize()


def run(step: Step, device: str, part: Part = lambda name: None) -> float:
    """The seconds that a step takes."""
    wait(device)
    start = time.perf_counter()
    loss = step(part)
    wait(device)
    seconds = time.perf_counter() - start
    if not loss.isfinite():
        raise SystemExit(f"The loss is {loss.item()}.")
    return seconds


def breakdown(step: Step, device: str, rounds: int) -> dict[str, float]:
    """The median seconds of each part of a step."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        last = time.perf_counter()

        def part(name: str) -> None:
            nonlocal last
            wait(device)
            now = time.perf_counter()
            times.setdefault(name, []).append(now - last)
            last = now

        run(step, device, part)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(peer: str, head: str, precision: str, args: argparse.Namespace) -> float:
    """Peak MB of three training steps in a separate process: on a GPU all memory, on a CPU without the model."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (peer, head, precision, args))


def _peak_memory(peer: str, head: str, precision: str, args: argparse.Namespace) -> float:
    step = make(peer, head, precision, args)
    before = _high_water()
    for _ in range(3):
        run(step, args.device)
    if args.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    return (_high_water() - before) / 1e3


def _high_water() -> int:
    """The peak memory of this process in kB. `ru_maxrss` would start at the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def compare(head: str, precision: str, args: argparse.Namespace, table: Table) -> None:
    peers = ("densevit", "transformers")
    steps = {peer: make(peer, head, precision, args) for peer in peers}
    for step in steps.values():
        run(step, args.device)
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in track(range(args.rounds), f"{head} {precision}", console=Console(stderr=True), transient=True):
        for peer in peers:
            times[peer].append(run(steps[peer], args.device))
    ratios = [b / a for a, b in zip(times["densevit"], times["transformers"], strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f})"
    for peer in peers:
        cells = [f"{1000 * statistics.median(times[peer]):.0f}", f"{1000 * min(times[peer]):.0f}"]
        cells.append(ratio if peer == "densevit" else "")
        cells.append(f"{peak_memory(peer, head, precision, args):.0f}" if args.memory else "")
        table.add_row(f"{head} {precision}", peer, *cells)
    if args.breakdown:
        parts = breakdown(steps["densevit"], args.device, args.rounds)
        for name, seconds in parts.items():
            table.add_row("", name, f"{1000 * seconds:.0f}", "", f"{seconds / sum(parts.values()):.0%}", "")
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    heads = ("detr", "deformable_detr")
    parser.add_argument("heads", nargs="*", default=heads, metavar="HEAD", help="detr, deformable_detr")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    parser.add_argument("--device", default="cpu" if accelerator is None else accelerator.type)
    parser.add_argument("--precision", nargs="+", choices=tuple(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="height and width of images")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--their-dropout", choices=("same", "defaults"), default="same")
    parser.add_argument("--memory", action="store_true", help="peak memory, each in a separate process (Linux)")
    parser.add_argument("--breakdown", action="store_true", help="time of each part of densevit's step")
    args = parser.parse_args()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "timm"))
    title = f"Training step, batch {args.batch_size}, {args.size}x{args.size}, {args.device}; {versions}"
    table = Table("case", "by", "ms", "least ms", "ratio", "peak MB", title=title)
    for head in args.heads:
        for precision in args.precision:
            compare(head, precision, args, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
