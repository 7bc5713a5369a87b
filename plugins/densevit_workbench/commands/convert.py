"""Converts another project's weights to a run folder, or back.

With --to, a run becomes that project's weights.
"""

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
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder; with --to a new file, or for hf a folder")
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="options that cannot be inferred from tensors: backbone.dilation=true; tensors that may not match: "
        "weights_allow=[PATTERN, ...]",
    )
    parser.add_argument("--as", dest="layout", metavar="LAYOUT", help="the layout of SRC, if it is not recognised")
    parser.add_argument("--to", metavar="LAYOUT", help="hf, timm, torchvision, detr, or the name of a layout")
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_free
    from densevit.errors import ConfigError
    from densevit.weights.weights_table import weights_table
    from densevit_workbench.interchange.foreign_export import export, written_table
    from densevit_workbench.interchange.foreign_weights import convert, write

    check_free(args.out)
    if args.to is None:
        found = convert(args.source, args.layout, args.overrides, bool(args.trust))
        write(found, args.out)
        if found.config is not None:
            use = "a run, for densevit.load, evaluate and predict"
        else:
            use = f"a backbone, for train CONFIG backbone={args.out / 'backbone.yaml'}"
        args.output.show(weights_table(found.fit), f"{args.out}: {use}")
        args.output.result({"out": str(args.out), "kind": "backbone" if found.config is None else "run"})
        return 0
    if args.layout is not None:
        raise ConfigError("--as is the layout of the input, --to the layout of the output; keep one.")
    one = export(args.source, args.to, _allowed(args.overrides), args.trust)
    one.write(args.out)
    args.output.show(written_table(one, args.source, args.out))
    args.output.result({"out": str(args.out), "kind": args.to})
    return 0


def _allowed(overrides: list[str]) -> list[str]:
    """The patterns of `weights_allow=[PATTERN, ...]`, the only override for --to."""
    from densevit.config.yaml_io import parse
    from densevit.errors import ConfigError

    allowed: list[str] = []
    for override in overrides:
        key, _, text = override.partition("=")
        patterns = parse(text, f"command line: {override}") if key == "weights_allow" else None
        if not isinstance(patterns, list):
            raise ConfigError(f"{override}: --to writes a run unchanged. Only weights_allow=[PATTERN, ...] is allowed.")
        allowed += map(str, patterns)
    return allowed
