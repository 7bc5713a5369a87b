"""Repeats a training step whose loss or gradient was not finite, and prints where it started.

Exit code 0 if the step is not finite again, in the layer that the training reported; 1 otherwise.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a file RUN/faults/step_*.pt")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: an accelerator if available)"
    )


def run(args: argparse.Namespace) -> int:
    from densevit.training.replay import replay

    result = replay(args.file, args.device)
    found = result.found
    print(f"step {result.step:,}, images {', '.join(map(repr, result.images))}")
    print(found)
    for title, tensors in (("input", found.inputs), ("output", found.outputs)):
        for text in tensors:
            print(f"  {title}: {text}")
    for name, value in found.terms.items():
        print(f"loss {name}: {value:.6g}")
    if result.reproduced:
        print("reproduced")
        return 0
    print(f"not reproduced: the training reported {result.reported!r}" if result.reported else "not reproduced")
    return 1
