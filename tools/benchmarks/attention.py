"""Compares two implementations of attention, forward and backward, at the lengths in densevit's models.

They are written out (two matrix products with a softmax between) and fused (torch's `scaled_dot_product_attention`).
`densevit.layers.fast.attention` uses the first on a CPU and the second on a GPU: the table shows the effect.
Rounds are interleaved, so that other load slows both equally.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # query, key, value and bias
Form = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Case(NamedTuple):
    """Attention in a model, in `batch` images or windows.

    bias: added to the scores. "table" is learned and has a gradient, like Swin's relative positions; "place" too, for
    each query and key of each image, like the box-position bias; "padding" masks keys and has no gradient.
    """

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    bias: str = ""


CASES = (
    Case("windows of 4 x 4", 1024, 4, 16, 16, "table"),
    Case("windows of 7 x 7", 256, 4, 49, 49, "table"),
    Case("40 queries", 16, 8, 40, 40),
    Case("40 queries, 16 x 16 map", 16, 8, 40, 256, "place"),
    Case("100 queries", 8, 8, 100, 100),
    Case("100 queries, 16 x 16 map", 8, 8, 100, 256, "padding"),
    Case("100 queries, 25 x 34 map", 2, 8, 100, 850, "padding"),
    Case("16 x 16 map", 8, 8, 256, 256, "padding"),
    Case("20 x 20 map", 4, 8, 400, 400, "padding"),
    Case("28 x 38 map", 2, 8, 1064, 1064, "padding"),
)


def written_out(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ value


def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def make_inputs(case: Case, width: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Query, key and value, (batch, heads, length, width), and the bias."""
    lengths = (case.queries, case.keys, case.keys)
    shapes = [(case.batch, case.heads, length, width) for length in lengths]
    query, key, value = (torch.randn(x, device=device, dtype=dtype, requires_grad=True) for x in shapes)
    if not case.bias:
        return query, key, value, None
    if case.bias == "padding":
        hidden = torch.zeros(case.batch, 1, 1, case.keys, device=device, dtype=dtype)
        hidden[::2, ..., -case.keys // 4 :] = float("-inf")
        return query, key, value, hidden
    batch = 1 if case.bias == "table" else case.batch
    shape = (batch, case.heads, case.queries, case.keys)
    return query, key, value, torch.randn(shape, device=device, dtype=dtype, requires_grad=True)


def step(form: Form, inputs: Inputs, weight: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    _wait(weight.device)
    start = time.perf_counter()
    form(*inputs).backward(weight)
    _wait(weight.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    case: Case, width: int, rounds: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Median milliseconds written out and fused, and the median of the rounds' ratios, fused over written out."""
    inputs = make_inputs(case, width, device, dtype)
    weight = torch.randn_like(inputs[0])
    difference = (written_out(*inputs) - fused(*inputs)).abs().max().item()
    if difference > (1e-4 if dtype == torch.float32 else 5e-2):
        raise SystemExit(f"{case.name}, {dtype}: the two forms differ by {difference:g}.")
    for form in (written_out, fused):
        step(form, inputs, weight)
    pairs = [tuple(step(form, inputs, weight) for form in (written_out, fused)) for _ in range(rounds)]
    medians = [1e3 * statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    return medians[0], medians[1], statistics.median(b / a for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=32, help="width of a head; %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved repetitions; %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads; %(default)s")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for device in devices:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} threads"
        table = Table(
            title=f"Attention forward and backward, {name}",
            caption=f"torch {torch.__version__}; ms, median of {options.rounds} interleaved rounds; heads of "
            f"{options.width}; ratio: fused over written out",
        )
        table.add_column("where")
        table.add_column("bias")
        for kind in ("fp32", "bf16"):
            for heading in (f"{kind} written out", "fused", "ratio"):
                table.add_column(heading, justify="right")
        for case in CASES:
            row = [f"{case.name} (batch {case.batch})", case.bias]
            for dtype in (torch.float32, torch.bfloat16):
                out, whole, ratio = measure(case, options.width, options.rounds, device, dtype)
                row += [f"{out:.2f}", f"{whole:.2f}", f"{ratio:.2f}"]
            table.add_row(*row)
        Console().print(table)


if __name__ == "__main__":
    main()
