"""Measures models: cost, speed, memory, and scores.

Parameters, multiply-adds, latency, throughput, memory and scores, side by side.
"""

import contextlib
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from densevit.cli.evaluate import add_trust

EXAMPLES = """examples:
  densevit benchmark detr_swin scenes/detr_resnet runs/mine
  densevit benchmark runs/mine runs/mine/model.onnx --device cpu
  densevit benchmark detr_swin --sizes 128,256x320 --batches 1,8,32 --modes fp32,bf16,bf16-compiled
  densevit benchmark --backbones swin,vit,my_package:MyNet --heads box_query_detr,setr,dpt --train --images 16000
  densevit benchmark --backbones swin,vit --heads setr --train --images 16000 --seeds 0,1,2
  densevit benchmark --backbones swin,mynet.yaml --heads box_query_detr --train data=coco data.root=~/coco
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "configs",
        metavar="CONFIG",
        nargs="*",
        help="config files, shipped configs' names, run folders, exported files; and overrides: section.key=value, "
        "section=FILE",
    )
    parser.add_argument("--backbones", type=_names, default=[], help="in place of configs, with --heads: a,b,module:C")
    parser.add_argument("--heads", type=_names, default=[], help="heads; each backbone is measured under each head")
    parser.add_argument(
        "--protocol", metavar="CONFIG", default="benchmark/protocol", help="what all backbones share (default: shipped)"
    )
    parser.add_argument("--sizes", type=_sizes, default=[], help="224,480x640 (default: data.image_size)")
    parser.add_argument("--batches", type=_numbers, default=[1, 8], help="batch sizes (default: 1,8)")
    parser.add_argument(
        "--modes", type=_names, default=["fp32"], help="fp32, bf16, fp32-compiled, bf16-compiled (default: fp32)"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: an accelerator if there is one)"
    )
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of each cell (default: 30)")
    add_trust(parser)
    parser.add_argument("--train", action="store_true", help="also train each model, and show its scores")
    parser.add_argument("--images", type=int, help="the budget of each run (default: its config's)")
    parser.add_argument(
        "--rates", type=_rates, help="learning rates to choose from, with --backbones (default: 5e-4,1e-3,2e-3)"
    )
    parser.add_argument(
        "--seeds", type=_numbers, default=[], help="0,1,2: repeat each run with each seed (default: the config's)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("runs/benchmark"),
        help="folder of results, with a subfolder per settings; stored results are reused",
    )


def run(args: Namespace) -> int:
    from densevit_workbench.benchmarking.suite import RATES, benchmark

    overrides = [argument for argument in args.configs if "=" in argument and not Path(argument).exists()]
    # Trainings print to stdout, which is reserved for the result.
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing if args.output.quiet else sys.stderr):
        finished = benchmark(
            [argument for argument in args.configs if argument not in overrides],
            overrides,
            backbones=args.backbones,
            heads=args.heads,
            protocol=args.protocol,
            sizes=args.sizes,
            batch_sizes=args.batches,
            modes=args.modes,
            device=args.device,
            rounds=args.rounds,
            trust=args.trust,
            train=args.train,
            images=args.images,
            rates=RATES if args.rates is None else args.rates,
            seeds=args.seeds,
            out=args.out,
            quiet=args.output.quiet,
            command=args.command,
        )
    args.output.show(finished.markdown(), f"{finished.folder}/benchmark.md and benchmark.json")
    cases = {name: vars(case) for name, case in finished.results.items()}
    args.output.result({"folder": str(finished.folder), "facts": finished.facts, "cases": cases})
    for name, text in finished.errors.items():
        args.output.problem(f"{name}: {text}")
    return 1 if finished.errors else 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ArgumentTypeError(f"{text!r}: expected names separated by commas")
    return names


def _sizes(text: str) -> list[tuple[int, int]]:
    sizes = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:x(\d+))?\s*", part)
        if not match or not int(match[1]) * int(match[2] or 1):
            raise ArgumentTypeError(f"{part!r}: expected a side, or HEIGHTxWIDTH, as in 224,480x640")
        sizes.append((int(match[1]), int(match[2] or match[1])))
    return sizes


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ArgumentTypeError(f"{text!r}: expected whole numbers, separated by commas")
    return [int(part) for part in text.split(",")]


def _rates(text: str) -> list[float]:
    with contextlib.suppress(ValueError):
        rates = [float(part) for part in text.split(",")]
        if all(0 < rate < float("inf") for rate in rates):
            return rates
    raise ArgumentTypeError(f"{text!r}: expected learning rates above 0, separated by commas")
