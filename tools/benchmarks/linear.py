"""Compares densevit's linear layer with torch's, forward and backward, at the shapes of Swin-T and ViT, batch 2.

`densevit.layers.fast.linear` computes the layer as a 1x1 convolution on some CPUs in float32: this table shows the
speed-up. Rounds are interleaved, so that other load slows both equally.
"""

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from densevit.layers.fast.linear import Linear

CASES = (  # tokens, in, out
    (6272, 96, 288),
    (6272, 96, 384),
    (6272, 384, 96),
    (1568, 192, 768),
    (392, 384, 1536),
    (98, 768, 3072),
    (394, 384, 1152),
    (394, 768, 3072),
    (394, 3072, 768),
)


def step(layer: nn.Module, x: Tensor, gradient: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    layer(x).backward(gradient)
    return time.perf_counter() - start


def measure(tokens: int, inputs: int, outputs: int, rounds: int) -> tuple[float, float, float]:
    """Median GFLOP/s of torch's layer and of ours, and the median of the rounds' ratios."""
    layers = nn.Linear(inputs, outputs), Linear(inputs, outputs)
    x, gradient = torch.randn(tokens, inputs, requires_grad=True), torch.randn(tokens, outputs)
    for layer in layers:
        step(layer, x, gradient)
    times = [[step(layer, x, gradient) for layer in layers] for _ in range(rounds)]
    work = 6 * tokens * inputs * outputs / 1e9
    torch_s, ours = (work / statistics.median(column) for column in zip(*times, strict=True))
    return torch_s, ours, statistics.median(a / b for a, b in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table("tokens", "in", "out", "torch, GFLOP/s", "densevit, GFLOP/s", "ratio")
    for tokens, inputs, outputs in CASES:
        theirs, ours, ratio = measure(tokens, inputs, outputs, args.rounds)
        table.add_row(*map(str, (tokens, inputs, outputs)), f"{theirs:.0f}", f"{ours:.0f}", f"{ratio:.2f}")
    Console().print(f"float32, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}", table)


if __name__ == "__main__":
    main()
