"""Counts the operations of a training step, by part: the overhead of a step besides its products, on any device.

    python tools/benchmarks/operations.py detr_swin start/detector --top 15

An operation is one that PyTorch dispatches; a custom operator counts as what it does inside. Views cost their launch
from Python only. The step is a run's own: losses, backward pass, clipping, the fused optimiser and the average of the
weights, on the rendered scenes. Counts depend on the numbers of objects, not on the machine. CPU seconds are those of
the profiler, with all threads.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_parts.training import recipe
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701

from densevit import config as configs
from densevit.losses import matching
from densevit.training.loop.ema import ExponentialMovingAverage
from densevit.training.loop.optim import optimizer_of

SCENES = "data={name: scenes, image_size: 160, batch_size: 8, transforms: default}"
RECIPES: dict[str, tuple[str, ...]] = {
    "detr_swin": (),
    "start/detector": ("backbone=efficientnet_lite0", "backbone.weights=random", "backbone.freeze=false", SCENES),
    "coco/dfine_n": ("backbone.pretrained=false", SCENES),
    "coco/mask2former_r50": ("backbone.weights=random", SCENES, "data.masks=true"),
    "dpt_swin": (),
}
PARTS = ("backbone", "encoder", "decoder", "rest of forward", "matching", "losses", "backward", "clipping", "optimiser",
         "averages")  # fmt: skip
VIEWS = {"view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "select", "slice", "unsqueeze",
         "squeeze", "split", "split_with_sizes", "unbind", "as_strided", "detach", "alias", "diagonal", "unfold",
         "chunk", "_reshape_alias"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts operations by part and name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = "rest of forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prim", "prims", "profiler"):
            with self:
                return func(*args, **(kwargs or {}))
        self.counts[self.part, func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counted_as(self, part: str) -> Iterator[None]:
        before, self.part = self.part, part
        yield
        self.part = before

    def of(self, module: nn.Module, part: str) -> None:
        """Counts what the module's forward pass does as a part."""
        parts: list[str] = []

        def begin(*_: Any) -> None:
            parts.append(self.part)
            self.part = part

        def end(*_: Any) -> None:
            self.part = parts.pop()

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def total(self, part: str) -> int:
        return sum(number for (counted_part, _), number in self.counts.items() if counted_part == part)


def count(name: str, keys: tuple[str, ...]) -> tuple[Operations, float]:
    """The operations of the second step, and the loss."""
    model, batch = recipe(name, *RECIPES[name], *keys)
    section = configs.load(name, [*RECIPES[name], *keys]).optim
    optimizer = optimizer_of(model.train(), section, 1e-5)
    operations, ema = Operations(), ExponentialMovingAverage(0.998)
    ema.start({key: value for key, value in model.state_dict().items() if value.is_floating_point()})
    operations.of(model.backbone, "backbone")
    for head in model.heads.values():
        for part in ("encoder", "decoder"):
            for key, module in head.named_modules():
                if key.split(".")[-1] in (part, f"{part}_layers") and key.count(".") <= 1:
                    operations.of(module, part)
    for function in ("assign", "matching_costs"):
        setattr(matching, function, _as(operations, "matching", getattr(matching, function)))

    def step() -> torch.Tensor:
        with operations.counted_as("rest of forward"):
            outputs = model(batch)
        with operations.counted_as("losses"):
            loss = torch.stack(list(model.losses_of(outputs, batch["targets"]).values())).sum()
        with operations.counted_as("backward"):
            optimizer.zero_grad()
            loss.backward()
        with operations.counted_as("clipping"):
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 0.1)
        with operations.counted_as("optimiser"):
            optimizer.step()
        with operations.counted_as("averages"):
            ema.update()
        return loss.detach()

    step()
    with operations:
        loss = step()
    return operations, float(loss)


def _as(operations: Operations, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        with operations.counted_as(part):
            return function(*args, **options)

    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", choices=[*RECIPES, []], help="all by default")
    parser.add_argument("--top", type=int, default=0, help="lists this many operations of each part")
    parser.add_argument("--set", nargs="*", default=[], dest="keys", help="overrides of the recipe")
    args = parser.parse_args()
    table = Table("recipe", *PARTS, "all", "views", "loss")
    for name in args.recipes or RECIPES:
        operations, loss = count(name, tuple(args.keys))
        views = sum(n for (_, op), n in operations.counts.items() if op in VIEWS)
        totals = [operations.total(part) for part in PARTS]
        table.add_row(name, *(f"{n:,}" for n in [*totals, sum(totals), views]), f"{loss:.6f}")
        for part in PARTS if args.top else ():
            names = Counter(
                {op: n for (counted_part, op), n in operations.counts.items() if counted_part == part}
            ).most_common(args.top)
            print(f"{name}, {part}: " + ", ".join(f"{op} {n}" for op, n in names))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
