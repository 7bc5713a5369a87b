"""Repeats a training step whose loss was not finite.

Prints the layer in which a loss or gradient became non-finite. Exit code 0 if the error is reproduced in the layer that
the training reported; 1 otherwise.
"""

import argparse
from pathlib import Path

from densevit.cli.evaluate import add_trust

EXAMPLES = """examples:
  densevit replay runs/mine/faults/step_120.pt --device cpu
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a file RUN/faults/step_*.pt")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: an accelerator if available)"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    from densevit_workbench.replay import replay

    result = replay(args.file, args.device, args.trust)
    found = result.found
    lines = [f"step {result.step:,}, images {', '.join(map(repr, result.images))}", str(found)]
    for title, tensors in (("input", found.inputs), ("output", found.outputs)):
        lines += [f"  {title}: {text}" for text in tensors]
    lines += [f"loss {name}: {value:.6g}" for name, value in found.terms.items()]
    other = f": the training reported {result.reported!r}" if result.reported else ""
    args.output.show(*lines, "reproduced" if result.reproduced else f"not reproduced{other}")
    values = {"step": result.step, "images": list(result.images), "found": str(found), "terms": dict(found.terms)}
    args.output.result({**values, "reproduced": result.reproduced, "reported": result.reported})
    return 0 if result.reproduced else 1
