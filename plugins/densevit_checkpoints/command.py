"""Converts another project's weights to a run folder, or a run to transformers' files, with `--to hf`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from densevit.cli.evaluate import add_trust

EXAMPLES = """examples:
  densevit convert detr-r50-e632da11.pth runs/detr_r50
  densevit convert timm:vit_base_patch16_224.augreg_in21k weights/vit
  densevit convert runs/mine exported --to hf
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="a file, a folder, timm:NAME, torchvision:NAME or hf:ORG/NAME; with --to a run"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="options that cannot be inferred from tensors: backbone.dilation=true; tensors that may not match: "
        "allow_mismatch=[PATTERN, ...]",
    )
    parser.add_argument("--as", dest="layout", metavar="LAYOUT", help="the layout of SRC, if it is not recognised")
    parser.add_argument(
        "--prefix", metavar="PREFIX", help="read only keys that begin with PREFIX, such as model.teacher., without it"
    )
    parser.add_argument("--to", choices=["hf"], help="hf: transformers' files of a run, for from_pretrained")
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_free
    from densevit.errors import ConfigError
    from densevit.weights.weights_table import weights_table
    from densevit_checkpoints.foreign_weights import convert, write
    from densevit_checkpoints.transformers_export import export

    check_free(args.out)
    if args.to is None:
        converted = convert(args.source, args.layout, args.overrides, args.trust, args.prefix)
        write(converted, args.out)
        if converted.model.config is not None:
            use = "a run, for densevit.load, evaluate and predict"
        else:
            use = f"a backbone, for train CONFIG backbone={args.out / 'backbone.yaml'}"
        args.output.show(weights_table(converted.fit), f"{args.out}: {use}")
        args.output.result({"out": str(args.out), "kind": "backbone" if converted.model.config is None else "run"})
        return 0
    if args.layout is not None or args.prefix is not None or args.overrides:
        raise ConfigError("--to writes a run unchanged. Fix: leave out --as, --prefix and section.key=value.")
    args.output.show(*export(args.source, args.out, args.trust), f"{args.out}: a model of transformers")
    args.output.result({"out": str(args.out), "kind": args.to})
    return 0
