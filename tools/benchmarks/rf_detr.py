"""Compares RF-DETR nano with the authors' package rfdetr: inference, training step and its peak memory, on the CPU.

Both have 384 x 384 images, 80 classes and the same random weights, and must have the same outputs, compared in double
precision, and loss. Inference starts from uint8 images and ends with boxes, on the package's side normalisation, model
and `PostProcess`; `traced` is its model as after `RFDETR.inference()`, traced for the batch. A training step is that of
`training_step.py`, in fp32: forward, matching, losses, backward, clipping of gradients and fused AdamW with the groups
of each side. Rounds are interleaved: other load slows all equally. The ratio is the median of the rounds' ratios. The
peak memory is what a second step needs at most beyond the memory before it, in a separate process (Linux).

    pip install "rfdetr[train]==1.11.2"
    python tools/benchmarks/rf_detr.py
"""

import argparse
import copy
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch
from deformable_attention import reset_high_water, status
from rfdetr._namespace import _namespace_from_configs
from rfdetr.config import RFDETRNanoConfig, TrainConfig
from rfdetr.models import build_criterion_from_config, build_model_from_config
from rfdetr.training.param_groups import get_param_dict
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.transforms import functional as F
from training_step import Step, images_and_targets, make_step, run

import densevit
from densevit.config import load
from densevit.model import DenseModel
from densevit.training.loop.optim import optimizer_of
from densevit.weights.key_mapping import translate
from densevit.weights.layouts import find

CONFIG, SIDE, CLASSES = "configs/coco/rf_detr_nano.yaml", 384, 80
CPU = torch.device("cpu")
OPTIONS = RFDETRNanoConfig(num_classes=CLASSES - 1, device="cpu")  # the package adds a class
TRAINING = TrainConfig(dataset_dir=".", output_dir=".")
CRITERION, POSTPROCESS = build_criterion_from_config(OPTIONS, TRAINING)


def theirs() -> nn.Module:
    """The package's model; the weights that its config names are not loaded."""
    logging.getLogger("rf-detr").setLevel(logging.ERROR)  # it warns that it loads no weights
    torch.manual_seed(0)
    return build_model_from_config(OPTIONS, TRAINING)


def ours(state: dict[str, Tensor]) -> DenseModel:
    """densevit's model with the weights of the package's."""
    classes = [f"class {i}" for i in range(CLASSES)]
    model: DenseModel = densevit.create_model(CONFIG, classes=classes, pretrained=False).model
    model.load_state_dict(translate(state, find("rf-detr")).tensors)
    return model


def inputs(batch: int) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """A batch of densevit, and the package's targets of it."""
    images, boxes, labels = images_and_targets(batch, SIDE)
    labels = [x % CLASSES for x in labels]
    corners = [SIDE * torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) for x in boxes]
    size = {"size": (SIDE, SIDE), "original_size": (SIDE, SIDE)}
    targets = [
        {"boxes": x, "labels": y, "image_id": i, **size} for i, (x, y) in enumerate(zip(corners, labels, strict=True))
    ]
    padding_mask = torch.zeros(batch, SIDE, SIDE, dtype=torch.bool)
    given = [{"boxes": x, "labels": y} for x, y in zip(boxes, labels, strict=True)]
    return {"images": images, "padding_mask": padding_mask, "targets": targets}, given


def normalised(images: Tensor) -> Tensor:
    return F.normalize(images.to(torch.get_default_dtype()) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def our_loss(model: DenseModel, batch: Any) -> Tensor:
    return torch.stack(list(model.loss(model(batch), batch["targets"]).values())).sum()


def their_loss(model: nn.Module, images: Tensor, targets: Any) -> Tensor:
    losses = CRITERION(model(images, targets), targets)
    return torch.stack(
        [CRITERION.weight_dict[key] * x for key, x in losses.items() if key in CRITERION.weight_dict]
    ).sum()


@torch.no_grad()
def check() -> None:
    """Outputs in double precision, where nearly equal scores of proposals rank alike; the loss in float32."""
    (batch, targets), other = inputs(1), theirs()
    model = ours(other.state_dict())
    expected = their_loss(other.train(), normalised(batch["images"]), targets)
    torch.testing.assert_close(our_loss(model.train(), batch), expected, rtol=1e-2, atol=0)
    torch.set_default_dtype(torch.float64)
    found = other.eval().double()(normalised(batch["images"]))
    outputs = model.eval().double()(batch)["detection"]
    torch.testing.assert_close(outputs["boxes"], found["pred_boxes"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["logits"], found["pred_logits"], rtol=1e-4, atol=1e-4)
    torch.set_default_dtype(torch.float32)


def inference(count: int) -> dict[str, Callable[[], object]]:
    """Ways to predict a batch."""
    other, (batch, _) = theirs().eval(), inputs(count)
    model, images = ours(other.state_dict()).eval(), batch["images"]
    exported = copy.deepcopy(other)
    exported.export()  # type: ignore[operator]
    traced, sizes = torch.jit.trace(exported, normalised(images)), torch.tensor([[SIDE, SIDE]] * count)

    def their_traced() -> object:
        boxes, logits = traced(normalised(images))[:2]
        return POSTPROCESS({"pred_boxes": boxes, "pred_logits": logits}, sizes)

    return {
        "densevit": lambda: model.predictions(model(batch), batch["targets"]),
        "rfdetr": lambda: POSTPROCESS(other(normalised(images)), sizes),
        "rfdetr, traced": their_traced,
    }


def training(peer: str, count: int) -> Step:
    other, (batch, targets) = theirs().train(), inputs(count)
    if peer == "rfdetr":
        groups = get_param_dict(_namespace_from_configs(OPTIONS, TRAINING), other)
        optimizer = torch.optim.AdamW(groups, lr=TRAINING.lr, weight_decay=TRAINING.weight_decay, fused=True)
        return make_step(other, optimizer, lambda _: their_loss(other, normalised(batch["images"]), targets), None, CPU)
    model, section = ours(other.state_dict()).train(), load(CONFIG).optim
    assert section.lr is not None
    return make_step(
        model, optimizer_of(model, section, section.lr, False), lambda _: our_loss(model, batch), None, CPU
    )


def peak_memory(peer: str, count: int, threads: int) -> float:
    """MB."""
    torch.set_num_threads(threads)
    step = training(peer, count)
    run(step, "cpu")
    before = reset_high_water()
    run(step, "cpu")
    return (status("VmHWM") - before) / 1e3


def compare(
    name: str, ways: dict[str, Callable[[], object]], rounds: int, table: Table, memory: dict[str, float]
) -> None:
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            if number:  # the first call is not counted
                times[way].append(time.perf_counter() - start)
    for way, seconds in times.items():
        ratios = [b / a for a, b in zip(times["densevit"], seconds, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f})"
        peak = f"{memory[way]:.0f}" if way in memory else ""
        table.add_row(name, way, f"{1e3 * statistics.median(seconds):.0f}", f"{1e3 * min(seconds):.0f}", ratio, peak)
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads; %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "rfdetr"))
    title = f"RF-DETR nano, {SIDE} x {SIDE}, fp32, {options.threads} threads; {versions}"
    table = Table("case", "by", "ms", "least ms", "times densevit's", "peak MB", title=title)
    with torch.inference_mode():
        for count in (1, 8):
            compare(f"inference, batch {count}", inference(count), options.rounds, table, {})
    peers = ("densevit", "rfdetr")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {peer: pool.apply(peak_memory, (peer, 4, options.threads)) for peer in peers}
    steps = {peer: training(peer, 4) for peer in peers}
    ways: dict[str, Callable[[], object]] = {peer: partial(run, step, "cpu") for peer, step in steps.items()}
    compare("training step, batch 4", ways, options.rounds, table, memory)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
