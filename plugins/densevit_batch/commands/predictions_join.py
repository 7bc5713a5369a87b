"""Joins the parts of a prediction by several processes."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from densevit.cli.evaluate import add_trust

EXAMPLES = """examples:
  densevit predict runs/mine photos --out found --part 1/2
  densevit predict runs/mine photos --out found --part 2/2
  densevit predictions join found"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder of densevit predict")
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_writable

    check_writable(args.predictions, fix="Fix: make it writable.")  # before slow imports
    from densevit.data.io.map_files import MapFiles
    from densevit.inference import model_loading
    from densevit_batch.joining import join_blocks
    from densevit_batch.prediction_folder import read_settings, saved_classes

    def maps() -> MapFiles:
        model = model_loading.load(read_settings(args.predictions)["model"], "cpu", args.trust)
        return MapFiles(args.predictions, saved_classes(args.predictions, model.classes), model.target_types)

    counts = join_blocks(args.predictions, maps)
    args.output.show(
        f"{args.predictions}: {counts.images:,} images are joined; {len(counts.failed):,} could not be read"
    )
    args.output.result({"out": str(args.predictions), "images": counts.images, "failed": len(counts.failed)})
    return 0
