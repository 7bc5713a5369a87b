"""The arguments of `densevit predict`."""

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from pathlib import Path

from densevit.cli.evaluate import MODEL_OR_FILE, add_runtime, add_trust


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_FILE)
    parser.add_argument(
        "sources",
        metavar="INPUT",
        nargs="+",
        help="an image, a folder, a pattern ('photos/**/*.jpg'), a video, a URL of an image, a tar of images, a COCO "
        "json, or a list of them: names.txt, or - for stdin",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="a new folder (default: ./predictions, or the next free one)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue in --out DIR after an interruption: predicts the missing images, also unreadable images that "
        "are readable now",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="the lowest score of objects in drawn/ and predictions.csv; predictions.json contains all (default: the "
        "score with the largest F1 in the model's validation; 0.5 for a model without one)",
    )
    parser.add_argument(
        "--min-score",
        metavar="SCORE",
        type=float,
        help="the lowest score of objects in all files, at most the threshold (default: 0; with windows 0.05)",
    )
    parser.add_argument(
        "--draw",
        metavar="all|N|none",
        type=_number_of_images,
        help="the images to draw: all, the first N of the list, or none (default: all of up to 1,000 images, "
        "else the first 100)",
    )
    parser.add_argument(
        "--max-failed",
        metavar="N",
        type=int,
        default=0,
        help="exit status 1 if more than N images cannot be read (%(default)s); failed.csv lists them",
    )
    parser.add_argument(
        "--video",
        action="store_true",
        help="for videos: draw all frames to drawn/NAME.mp4 instead of one image per frame",
    )
    parser.add_argument(
        "--format",
        choices=("json", "parquet"),
        default="json",
        help="format of predictions: images.json and predictions.json, or the tables images.parquet and "
        "objects.parquet, which need pyarrow (%(default)s)",
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=8, help="images per batch (%(default)s)")
    parser.add_argument(
        "--focal",
        metavar="PIXELS",
        type=float,
        help="the camera's focal length in pixels of the images, for depth of a canonical camera (default: each "
        "image's EXIF); also writes point clouds, clouds/NAME.ply",
    )
    parser.add_argument(
        "--image-size",
        metavar="SIZE",
        type=lambda text: text if text == "source" else sides(text),
        help="the long side of resized images (1280), the height and width that images are fitted into "
        "(960x1280), or source: images keep their size (default: as in evaluation; with --window: source)",
    )
    group = parser.add_argument_group(
        "windows, NMS of boxes, and test-time augmentation of dense heads; by default as in the run"
    )
    for name, parse, form, text in (
        ("window", sides, "SIDE|HxW", "size of sliding windows, in pixels of --image-size; null: the full image"),
        ("stride", sides, "SIDE|HxW", "stride of the windows; null: two thirds of the window"),
        ("scales", _factors, "S,S,...", "scales of the image: 0.75,1,1.25"),
        ("average", str, "KIND", "average logits or probabilities"),
        ("nms", float, "IOU", "remove boxes that overlap a better box of their class by more than this"),
    ):
        group.add_argument(f"--{name}", type=parse, metavar=form, default=SUPPRESS, help=text)
    group.add_argument("--flip", action=BooleanOptionalAction, default=SUPPRESS, help="also use the flipped image")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: an accelerator)")
    group = parser.add_argument_group("several processes, which share --out DIR")
    group.add_argument(
        "--devices", metavar="N", type=int, default=1, help="predict N parts on N devices of this machine"
    )
    group.add_argument(
        "--part",
        metavar="I/N",
        type=_part,
        help="predict part I of N, from 1, in a job of an array or on another machine (default: from torchrun or srun"
        "); afterwards: densevit predictions join DIR",
    )
    add_runtime(parser)
    add_trust(parser)


def sides(text: str) -> int | list[int] | None:
    """Parses 512, 512x768 (height x width) or null."""
    try:
        sides = None if text == "null" else [int(side) for side in text.split("x")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a side (512), a height and width (512x768), or null.") from None
    return sides[0] if sides is not None and len(sides) == 1 else sides


def _number_of_images(text: str) -> int:
    """Parses all, none or a number."""
    if text in ("all", "none"):
        return sys.maxsize if text == "all" else 0
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not all, none or a number of images such as 100.")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    """Parses 3/16."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"{text!r} is not a part such as 3/16; parts are numbered from 1: 1/16 ... 16/16.")
    return int(number), int(count)


def _factors(text: str) -> list[float]:
    try:
        return [float(factor) for factor in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.75,1,1.25.") from None
