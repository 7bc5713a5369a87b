"""Compares recipes, backbones and layers with plain torch and the best peer, on this CPU, also restricted to AVX2.

    python tools/benchmarks/portability.py                      # all cases
    python tools/benchmarks/portability.py detr_swin swin-tiny --kinds avx2 --threads 2 --precisions fp32

A case is forward and backward; a recipe also has its losses, clipping and optimiser. "plain" is densevit without
`densevit.layers.fast`, as with `trainer.replace_layers=false`. Each kind is a separate process in which the
contestants alternate, so that other load slows all of them equally. A cell has densevit's milliseconds (images per
second for recipes), and the shortest time of the others divided by densevit's, as the median of the rounds' ratios.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from attention import CASES as ATTENTION
from attention import fused, make_inputs
from backbone_peers import CASES as BACKBONES
from backbones import Step, build
from deformable_attention import CASES as DEFORMABLE
from deformable_attention import Step as DeformableStep
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from densevit import config as configs
from densevit.allocator import keep_freed_memory
from densevit.data.build import build_data
from densevit.layers import windows as plain_windows
from densevit.layers.fast import attention, conv_norm, dropout, linear, windows
from densevit.layers.norms import FrozenBatchNorm2d
from densevit.training.loop.optim import optimizer_of
from densevit.weights.building import build_model
from densevit_backbones.mvit import attention as mvit_attention

KINDS = {
    "default": {},
    # What torch, oneDNN and the BLAS use on a CPU without AVX-512.
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
RECIPES = (
    "detr_swin",
    "detector",
    "setr_vit",
    "dpt_swin",
    "scenes/dino_detr_swin",
    "panoptic_swin",
    "scenes/detr_resnet",
)
BATCHES = 6
Contestant = Callable[[], object]


def plainly(step: Contestant) -> Contestant:
    """The step with torch's depthwise convolution in MViT, whose own is not in `densevit.layers.fast`."""

    def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        return F.conv2d(x, weight, stride=stride, padding=1, groups=x.shape[1])

    def run() -> None:
        with patch.object(mvit_attention, "_depthwise", depthwise):
            step()

    return run


def recipe(name: str, low: bool) -> dict[str, Contestant]:
    """A training step on batches of the recipe's data, with the layers of a built model and with plain ones."""
    return {"densevit": training_step(name, low, replaced=True), "plain": training_step(name, low, replaced=False)}


def training_step(name: str, low: bool, replaced: bool) -> Contestant:
    """A training step on batches that are loaded in advance. replaced: whether layers are replaced by faster ones."""
    overrides = ["data.num_workers=0", "data.val_length=8", f"trainer.replace_layers={str(replaced).lower()}"]
    config = configs.load(name, overrides)
    torch.manual_seed(0)
    data = build_data(config)
    model = build_model(config, data.train).train()
    optimizer = optimizer_of(model, config.optim, 1e-6)
    loader = iter(data.train_loader())
    batches = itertools.cycle([next(loader) for _ in range(BATCHES)])

    def step() -> None:
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            losses = model.loss(model(batch), batch["targets"])
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def backbone(name: str, low: bool) -> dict[str, Contestant]:
    """A backbone at 224 x 224, batch 2, and its peers."""
    device, size, dtype = torch.device("cpu"), (224, 224), torch.bfloat16 if low else None
    torch.manual_seed(0)
    steps = {
        peer: Step(build(name, peer, size, device, compiled=False), 2, size, device, dtype)
        for peer in ("densevit", *BACKBONES[name].peers, "plain")
    }
    return {**steps, "plain": plainly(steps["plain"])}


def _step(run: Callable[[], Tensor], low: bool, leaves: Sequence[Tensor | nn.Module] = ()) -> Contestant:
    """Forward, and backward from a given gradient; gradients of the leaves are reset before."""

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return run()

    gradient = torch.randn_like(forward())

    def step() -> None:
        for leaf in leaves:
            if isinstance(leaf, nn.Module):
                leaf.zero_grad()
            else:
                leaf.grad = None
        forward().backward(gradient)

    return step


def _map(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()


def linear_layer(tokens: int, inputs: int, outputs: int) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        ours, theirs = linear.Linear(inputs, outputs), nn.Linear(inputs, outputs)
        x = torch.randn(tokens, inputs, requires_grad=True)
        return {
            "densevit": _step(lambda: ours(x), low, [x, ours]),
            "torch": _step(lambda: theirs(x), low, [x, theirs]),
        }

    return make


def conv1x1(inputs: int, outputs: int, side: int, stride: int = 1) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        ours = linear.Conv1x1(inputs, outputs, 1, stride, bias=False).to(memory_format=torch.channels_last)
        theirs = nn.Conv2d(inputs, outputs, 1, stride, bias=False).to(memory_format=torch.channels_last)
        x = _map(2, inputs, side, side)
        return {
            "densevit": _step(lambda: ours(x), low, [x, ours]),
            "torch": _step(lambda: theirs(x), low, [x, theirs]),
        }

    return make


def convolution_and_norm(inputs: int, outputs: int, side: int) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        norm, usual, x = FrozenBatchNorm2d(outputs), nn.BatchNorm2d(outputs).eval(), _map(2, inputs, side, side)
        for parameter in usual.parameters():
            parameter.requires_grad_(False)
        return {
            "densevit": _step(lambda: conv_norm.conv_norm(conv, norm, x), low, [x, conv]),
            "torch": _step(lambda: usual(conv(x)).relu_(), low, [x, conv]),
        }

    return make


def dropout_layer(*shape: int) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        x = torch.randn(shape, dtype=torch.bfloat16 if low else torch.float32, requires_grad=True)
        ours, theirs = dropout.Dropout(0.1), nn.Dropout(0.1)
        return {"densevit": _step(lambda: ours(x), low, [x]), "torch": _step(lambda: theirs(x), low, [x])}

    return make


def relu_and_dropout(*shape: int) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        x = torch.randn(shape, dtype=torch.bfloat16 if low else torch.float32, requires_grad=True)
        return {
            "densevit": _step(lambda: dropout.relu_dropout(x, 0.1), low, [x]),
            "torch": _step(lambda: F.dropout(F.relu(x), 0.1), low, [x]),
        }

    return make


def attention_layer(name: str) -> Callable[[bool], dict[str, Contestant]]:
    case = next(case for case in ATTENTION if case.name == name)

    def make(low: bool) -> dict[str, Contestant]:
        inputs = make_inputs(case, 32, torch.device("cpu"), torch.bfloat16 if low else torch.float32)
        leaves = [x for x in inputs if x is not None]
        return {
            "densevit": _step(lambda: attention.attention(*inputs), False, leaves),
            "torch": _step(lambda: fused(*inputs), False, leaves),
        }

    return make


def window_layer(side: int, channels: int, heads: int, window: int) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        qkv = torch.randn(2, side, side, 3 * channels, dtype=torch.bfloat16 if low else torch.float32)
        qkv.requires_grad_()
        fill = torch.zeros(3 * channels)

        def there_and_back(form: Callable[..., Any]) -> Tensor:
            parts = form(qkv, window, window // 2, heads)
            query, key, value = parts.partition(qkv, fill).unbind(0)
            return parts.reverse(query + key + value)

        forms = {"densevit": windows.shifted_windows, "torch": plain_windows.shifted_windows}
        return {name: _step(partial(there_and_back, form), False, [qkv]) for name, form in forms.items()}

    return make


def deformable(name: str) -> Callable[[bool], dict[str, Contestant]]:
    def make(low: bool) -> dict[str, Contestant]:
        dtype = torch.bfloat16 if low else torch.float32
        device, case = torch.device("cpu"), DEFORMABLE[name]
        return {
            "densevit": DeformableStep("densevit", case, device, dtype, train=True),
            "grid_sample": DeformableStep("grid_sample", case, device, dtype, train=True),
        }

    return make


LAYERS: dict[str, Callable[[bool], dict[str, Contestant]]] = {
    "linear 6272 x 96 -> 384": linear_layer(6272, 96, 384),
    "linear 1568 x 768 -> 192": linear_layer(1568, 768, 192),
    "linear 394 x 768 -> 3072": linear_layer(394, 768, 3072),
    "linear 98 x 768 -> 3072": linear_layer(98, 768, 3072),
    "linear 2048 x 64 -> 256": linear_layer(2048, 64, 256),
    "conv1x1 64 -> 256, 56 x 56": conv1x1(64, 256, 56),
    "conv1x1 1024 -> 256, 14 x 14": conv1x1(1024, 256, 14),
    "conv1x1 512 -> 1024, 28 x 28, stride 2": conv1x1(512, 1024, 28, 2),
    "conv_norm 64 -> 64, 56 x 56": convolution_and_norm(64, 64, 56),
    "conv_norm 256 -> 256, 14 x 14": convolution_and_norm(256, 256, 14),
    "dropout 2 x 1064 x 256": dropout_layer(2, 1064, 256),
    "relu and dropout 2 x 1064 x 2048": relu_and_dropout(2, 1064, 2048),
    **{f"attention, {case.name}": attention_layer(case.name) for case in ATTENTION},
    "windows of 4 x 4, 32 x 32 map": window_layer(32, 64, 4, 4),
    "windows of 7 x 7, 56 x 56 map": window_layer(56, 96, 3, 7),
    "windows of 7 x 7, 30 x 40 map": window_layer(30, 192, 6, 7),
    **{f"deformable {name}": deformable(name) for name in ("decoder, 300 queries", "small encoder, batch 8")},
}
CASES = (*RECIPES, *(name for name in BACKBONES if name != "vit-large"), *LAYERS)


def contestants(case: str, low: bool) -> dict[str, Contestant]:
    if case in BACKBONES:
        return backbone(case, low)
    return LAYERS[case](low) if case in LAYERS else recipe(case, low)


def measure(case: str, precision: str, threads: int, seconds: float) -> dict[str, Any]:
    """Medians over rounds for about `seconds`, at least two rounds, after one that is not counted."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    steps = contestants(case, precision == "bf16")
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["densevit"]) < 2:
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in times if name != "densevit"), key=medians.__getitem__)
    rounds = [other / own for other, own in zip(times[best], times["densevit"], strict=True)]
    plain_rounds = [other / own for other, own in zip(times.get("plain", times[best]), times["densevit"], strict=True)]
    return {
        "seconds": medians,
        "best": best,
        "ratio": statistics.median(rounds),
        "quartiles": statistics.quantiles(rounds, n=4)[::2],
        "plain": statistics.median(plain_rounds),
        "rounds": len(rounds),
    }


@contextmanager
def processes(kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A process for each kind, whose libraries use the instructions of that kind."""
    with ExitStack() as stack:
        pools = {}
        for kind in kinds:
            with patch.dict(os.environ, KINDS[kind]):
                pools[kind] = stack.enter_context(multiprocessing.get_context("spawn").Pool(1))
        yield pools


def cell(case: str, result: dict[str, Any]) -> str:
    own = result["seconds"]["densevit"]
    if case in RECIPES:
        batch = configs.load(case, []).data.batch_size
        return f"{batch / own:.1f}/s, {result['ratio']:.2f}"
    plain = f", plain {result['plain']:.2f}" if "plain" in result["seconds"] else ""
    return f"{1e3 * own:.2f} ms, {result['ratio']:.2f} {result['best']}{plain if result['best'] != 'plain' else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per measurement; %(default)s")
    parser.add_argument("--out", type=Path, help="a json with all measurements")
    args = parser.parse_args()
    cases = args.cases or [*CASES]
    if unknown := sorted(set(cases) - {*CASES}):
        parser.error(f"unknown cases: {', '.join(unknown)}. Known: {', '.join(CASES)}")
    columns = [(precision, threads) for precision in args.precisions for threads in args.threads]
    results: dict[str, Any] = {}
    with processes(args.kinds) as pools:
        for case in track(cases, console=Console(stderr=True), transient=True):
            for kind, (precision, threads) in itertools.product(args.kinds, columns):
                found = pools[kind].apply(measure, (case, precision, threads, args.seconds))
                results[f"{case}; {kind}; {precision}; {threads}"] = found
            if args.out:
                args.out.write_text(json.dumps(results, indent=1))
    for kind in args.kinds:
        table = Table("case", *(f"{p}, {t} thread{'s' * (t > 1)}" for p, t in columns), title=f"{kind}: {KINDS[kind]}")
        for case in cases:
            table.add_row(case, *(cell(case, results[f"{case}; {kind}; {p}; {t}"]) for p, t in columns))
        Console(width=200).print(table)


if __name__ == "__main__":
    main()
