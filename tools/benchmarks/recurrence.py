"""Compares GTR's gated linear attention by chunks, token by token and softmax attention of equal width.

One image; all heads of a block. The maps are those of images of 640 and 1,280 pixels.
"""

from functools import partial
from typing import Any

import torch
from interleaved import measure, milliseconds, parsed, parser, ratio, show, table
from torch import Tensor
from torch.nn import functional as F

from densevit_backbones.gtr.recurrence import chunked, recurrent

HEADS = {"S": 3, "L, X": 6}


def make_inputs(heads: int, tokens: int, channels: tuple[int, ...], device: str, trained: bool) -> list[Tensor]:
    """Tensors (1, heads, tokens, channels) with gradients."""
    return [torch.randn(1, heads, tokens, c, device=device, requires_grad=trained) for c in channels]


def linear(form: Any, query: Tensor, key: Tensor, value: Tensor, gate: Tensor) -> Tensor:
    return form(query, key, value, F.logsigmoid(gate) / 16)


def run(form: Any, inputs: list[Tensor]) -> None:
    result = form(*inputs)
    if result.requires_grad:
        result.sum().backward()


def main() -> None:
    args = parsed(parser(__doc__, rounds=5))
    headings = ("variant and image", "pass", "chunks, ms", "tokens, ms", "softmax, ms", "tokens / chunks")
    comparison = table("Gated linear attention", args, *headings, "softmax / chunks")
    for variant, heads in HEADS.items():
        for side in (640, 1280):
            for trained in (False, True):
                tokens = (side // 16) ** 2
                gated = make_inputs(heads, tokens, (32, 32, 64, 32), args.device, trained)
                plain = make_inputs(heads, tokens, (64, 64, 64), args.device, trained)
                runs = {
                    "chunks": partial(run, partial(linear, chunked), gated),
                    "tokens": partial(run, partial(linear, recurrent), gated),
                    "softmax": partial(run, F.scaled_dot_product_attention, plain),
                }
                times = measure(runs, args.rounds)
                comparison.add_row(
                    f"{variant}, {side}",
                    "forward, backward" if trained else "forward",
                    *(milliseconds(times, name) for name in runs),
                    ratio(times, "tokens", "chunks"),
                    ratio(times, "softmax", "chunks"),
                )
    show(comparison)


if __name__ == "__main__":
    main()
