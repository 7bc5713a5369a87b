"""Compares two implementations of attention, forward and backward, at the lengths in densevit's models.

They are written out (two matrix products with a softmax between) and fused (torch's `scaled_dot_product_attention`).
`densevit.layers.fast.attention` uses the first on a CPU and the second on a GPU: the table shows the effect.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from interleaved import measure, milliseconds, parsed, parser, ratio, show, table
from torch import Tensor
from torch.nn import functional as F

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # query, key, value and bias
Form = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
WIDTH = 32  # of a head


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


def make_inputs(case: Case, device: str, dtype: torch.dtype) -> Inputs:
    """Query, key and value, (batch, heads, length, width), and the bias."""
    lengths = (case.queries, case.keys, case.keys)
    shapes = [(case.batch, case.heads, length, WIDTH) for length in lengths]
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


def step(form: Form, inputs: Inputs, gradient: Tensor) -> None:
    form(*inputs).backward(gradient)


def main() -> None:
    args = parsed(parser(__doc__, rounds=20))
    headings = ("where", "bias", "written out, ms", "fused, ms", "fused / written out")
    comparison = table(f"Attention, forward and backward, heads of {WIDTH}", args, *headings)
    for case in CASES:
        for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            inputs = make_inputs(case, args.device, dtype)
            name = f"{case.name} (batch {case.batch}), {dtype}"
            if (difference := (written_out(*inputs) - fused(*inputs)).abs().max().item()) > allowed:
                raise SystemExit(f"{name}: the two forms differ by {difference:g}.")
            gradient = torch.randn_like(inputs[0])
            forms = {form.__name__: partial(step, form, inputs, gradient) for form in (written_out, fused)}
            times = measure(forms, args.rounds)
            comparison.add_row(
                name, case.bias, *(milliseconds(times, x) for x in forms), ratio(times, "fused", "written_out")
            )
    show(comparison)


if __name__ == "__main__":
    main()
