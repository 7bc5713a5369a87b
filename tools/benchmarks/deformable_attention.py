"""Compares multi-scale deformable attention with the usual formulation with `grid_sample`: time and peak memory.

The usual formulation (authors' code, transformers): a `grid_sample` for each level, then a weighted sum over
all points. Shapes: encoder and decoder of the paper for an image of 800 x 1066, and the encoder of a small recipe.
Peak memory excludes the inputs of a step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from interleaved import measure, milliseconds, parsed, parser, peak_memory, ratio, show, table
from torch import Tensor

from densevit.layers import deformable_attention as plain
from densevit.layers.fast.deformable_attention import multi_scale_deformable_attention

Shapes = Sequence[tuple[int, int]]

PAPER = ((100, 134), (50, 67), (25, 34), (13, 17))
SMALL = ((16, 16), (8, 8), (4, 4))
WIDTH, POINTS = 32, 4  # of a head; of a query in each level


class Case(NamedTuple):
    """queries: number of decoder queries; 0 for an encoder, where each cell of each level is a query."""

    batch: int
    shapes: Shapes
    heads: int
    queries: int = 0


CASES = {
    "encoder, 800 x 1066": Case(1, PAPER, 8),
    "encoder, 800 x 1066, batch 2": Case(2, PAPER, 8),
    "decoder, 300 queries": Case(1, PAPER, 8, 300),
    "decoder, 300 queries, batch 2": Case(2, PAPER, 8, 300),
    "small encoder, batch 8": Case(8, SMALL, 4),
}
FORMULATIONS: dict[str, Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]] = {
    "grid_sample": plain.multi_scale_deformable_attention,
    "densevit": multi_scale_deformable_attention,
}


class Step:
    """A forward pass, or forward and backward pass, of a formulation under autocast if the values are bf16.

    Points lie around their references at a distance of some cells, as in a trained model.
    """

    def __init__(self, name: str, case: Case, device: str, dtype: torch.dtype, train: bool) -> None:
        self.formulation, self.case, self.dtype, self.train = FORMULATIONS[name], case, dtype, train
        torch.manual_seed(0)
        cells = sum(height * width for height, width in case.shapes)
        reference = torch.rand(case.queries, 2) if case.queries else centres(case.shapes)
        points = (case.batch, len(reference), case.heads, len(case.shapes), POINTS)
        sizes = torch.tensor([(width, height) for height, width in case.shapes])[:, None]
        locations = reference[:, None, None, None] + 2 * torch.randn(*points, 2) / sizes
        weights = torch.randn(points).flatten(-2).softmax(-1).view(points)
        value = torch.randn(case.batch, cells, case.heads, WIDTH)
        self.gradient = torch.randn(*points[:2], case.heads * WIDTH).to(device, dtype)
        self.inputs = [value.to(device, dtype), locations.to(device), weights.to(device)]
        for x in self.inputs:
            x.requires_grad_(train)

    def __call__(self) -> Tensor:
        value, locations, weights = self.inputs
        for x in self.inputs:
            x.grad = None
        with torch.autocast(value.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.formulation(value, self.case.shapes, locations, weights)
        if self.train:
            output.backward(self.gradient)
        return output.detach()


def warm_step(name: str, case: Case, device: str, dtype: torch.dtype, train: bool) -> Step:
    """A step, after a small step that loads lazy libraries."""
    Step(name, Case(1, ((2, 2),), 1), device, dtype, train)()
    return Step(name, case, device, dtype, train)


def centres(shapes: Shapes) -> Tensor:
    """Centres (x, y) in 0 ... 1 of the cells of all levels, (S, 2)."""
    levels = []
    for height, width in shapes:
        x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
        levels.append(torch.cartesian_prod(y, x).flip(-1))
    return torch.cat(levels)


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--cases", default="", help="only cases whose names contain this text")
    args = parsed(options)
    headings = ("case", "grid_sample, ms", "densevit, ms", "ratio", "MB: grid_sample", "densevit")
    comparison = table("Multi-scale deformable attention", args, *headings)
    for name, case in ((name, case) for name, case in CASES.items() if args.cases in name):
        for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            for train in (False, True):
                arguments = (case, args.device, dtype, train)
                steps = {formulation: Step(formulation, *arguments) for formulation in FORMULATIONS}
                label = f"{name}, {dtype}, {'forward and backward' if train else 'forward'}"
                outputs = [step() for step in steps.values()]
                if (difference := (outputs[0] - outputs[1]).abs().max().item()) > allowed:
                    raise SystemExit(f"{label}: the two formulations differ by {difference:g}.")
                times = measure(steps, args.rounds)
                memory = [f"{peak_memory(warm_step, formulation, *arguments):.1f}" for formulation in steps]
                figures = [*map(partial(milliseconds, times), steps), ratio(times, "grid_sample", "densevit")]
                comparison.add_row(label, *figures, *memory)
    show(comparison)


if __name__ == "__main__":
    main()
