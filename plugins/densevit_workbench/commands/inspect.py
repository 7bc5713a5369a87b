"""Shows what a model attends to on an image.

Positions, attention by layer and head, objects.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from densevit.cli.evaluate import MODEL, add_trust

EXAMPLES = """examples:
  densevit inspect runs/detr_swin examples/coffee.jpg
  densevit inspect runs/setr_vit examples/coffee.jpg --at 120,80 --out coffee
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("image", metavar="IMAGE", help="an image file or URL")
    parser.add_argument(
        "--at", type=_point, help="X,Y in pixels: the query whose attention is shown (default: the centre)"
    )
    parser.add_argument(
        "--inspector",
        action="append",
        default=[],
        metavar="NAME",
        help="an inspector whose figures are added (`densevit plugins inspectors`); may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new folder (default: inspect-IMAGE)")
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_new_folder, locked_folder
    from densevit.inference.model_loading import load
    from densevit_workbench.inspection.model_inspection import inspect_model

    out = args.out or Path(f"inspect-{Path(args.image).stem}")
    check_new_folder(out)
    with locked_folder(out):
        check_new_folder(out)  # another process may have written it meanwhile
        inspection = inspect_model(load(args.model, trust=args.trust), args.image, args.at, args.inspector)
        files = inspection.save(out)
    names = [path.name for path in files]
    args.output.show(
        f"{len(inspection.layers)} layers of attention; {out}/inspect.html, with {', '.join(names[:-2])} and "
        f"{names[-1]}"
    )
    args.output.result({"folder": str(out), "files": names, **inspection.as_dict()})
    return 0


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected X,Y in pixels, as in 120,80") from None
    return x, y
