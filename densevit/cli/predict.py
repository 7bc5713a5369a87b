"""Runs a model on images; draws and writes its predictions.

Writes a folder of visualizations and predictions: COCO results, CSV, maps, point clouds.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.cli.evaluate import MODEL_OR_FILE, add_runtime, add_trust
from densevit.errors import DensevitError

if TYPE_CHECKING:
    from densevit.inference.image_sizes import ImageSize

EXAMPLES = """examples:
  densevit predict runs/mine street.jpg
  densevit predict runs/mine photos 'more/**/*.jpg' clip.mp4 --out found --threshold 0.3
  densevit predict runs/mine clip.mp4 --video --out found
  densevit predict runs/mine photos --out found --resume
  densevit predict runs/mine aerial.tif --window 640
  densevit predict runs/mine/model.onnx photos
  densevit predict runs/mine coco/annotations/instances_val2017.json shards/000000.tar names.txt
  find . -name '*.png' | densevit predict runs/mine - --out found
"""


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
        help="continue in --out DIR: predicts the images that it does not have, also those that failed",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="the lowest score of objects in drawn/ and predictions.csv; predictions.json has all (default: the score "
        "with the largest F1 in the model's validation; 0.5 for a model without one)",
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
        help="the images that are drawn: all, the first N of the list, or none (default: all of up to 1,000 images, "
        "else the first 100)",
    )
    parser.add_argument(
        "--max-failed",
        metavar="N",
        type=int,
        default=0,
        help="the exit status is 1 if more than N images cannot be read (%(default)s); failed.csv has them",
    )
    parser.add_argument(
        "--video",
        action="store_true",
        help="of videos: draw all frames to drawn/NAME.mp4 instead of one image per frame",
    )
    parser.add_argument(
        "--format",
        choices=("json", "parquet"),
        default="json",
        help="of predictions: images.json and predictions.json, or the tables images.parquet and objects.parquet, "
        "which need pyarrow (%(default)s)",
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=8, help="images per batch (%(default)s)")
    parser.add_argument(
        "--focal",
        metavar="PIXELS",
        type=float,
        help="the camera's focal length in pixels of the images: also writes point clouds, clouds/NAME.ply",
    )
    parser.add_argument(
        "--image-size",
        metavar="SIZE",
        type=_image_size,
        help="the long side to which images are resized (1280), height and width into which they are fitted "
        "(960x1280), or source: images keep their size (default: as in evaluation; with --window: source)",
    )
    group = parser.add_argument_group("windows, and test-time augmentation of dense heads; by default as in the run")
    for name, kind, form, text in (
        ("window", _sides, "SIDE|HxW", "size of sliding windows, in pixels of --image-size; null: the whole image"),
        ("stride", _sides, "SIDE|HxW", "stride of the windows; null: two thirds of the window"),
        ("scales", _factors, "S,S,...", "scales of the image: 0.75,1,1.25"),
        ("average", str, "KIND", "average logits or probabilities"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar=form, default=SUPPRESS, help=text)
    group.add_argument("--flip", action=BooleanOptionalAction, default=SUPPRESS, help="also use the flipped image")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: an accelerator)")
    add_runtime(parser)
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command. Returns 1 if more images than --max-failed could not be read; the others are processed."""
    from densevit.atomic_io import check_new_folder, check_writable, next_free_folder
    from densevit.cli.frame_counts import FRAME_COUNTS
    from densevit.cli.input_images import find_images
    from densevit.cli.prediction_files import continue_hint
    from densevit.cli.prediction_run import PredictionRun, check_lowest_score
    from densevit.data.io.prediction_tables import check_pyarrow
    from densevit.file_lock import locked_folder
    from densevit.inference.image_sizes import requested_size
    from densevit.inference.loading import device_of, load

    if args.batch_size < 1:
        raise DensevitError(f"--batch-size is {args.batch_size}; at least 1 is expected.")
    for option, score in (("--threshold", args.threshold), ("--min-score", args.min_score)):
        if score is not None and not 0 <= score <= 1:
            raise DensevitError(f"{option} is {score}; a score from 0 to 1 is expected.")
    if args.min_score is not None and args.threshold is not None:
        check_lowest_score(args.min_score, args.threshold, "--threshold")
    if args.max_failed < 0:
        raise DensevitError(f"--max-failed is {args.max_failed}; a number of images is expected, at least 0.")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise DensevitError(f"--focal is {args.focal}; the focal length in pixels is expected, above 0.")
    if args.resume and args.out is None:
        raise DensevitError("--resume needs the folder to continue: --out DIR.")
    if args.resume and args.video:
        raise DensevitError("--resume cannot continue a drawn video. Fix: leave --video out, or name a new folder.")
    if args.draw is not None and args.video:
        raise DensevitError("--draw: with --video, all frames are drawn. Fix: leave --draw or --video out.")
    if args.format == "parquet":
        check_pyarrow("--format parquet")
    images = find_images(args.sources, args.out / FRAME_COUNTS if args.resume else None)
    for image in images if args.video else ():
        if image.frame is None:
            raise DensevitError(f"--video: {image.file_name} is an image. Fix: name videos only, or leave --video out.")
    if args.out and not args.resume:
        check_new_folder(args.out, continue_hint(args.out))
    else:
        check_writable(args.out or Path.cwd(), fix="Fix: name a folder with --out DIR.")
    try:
        device = device_of(args.device)
    except DensevitError as wrong:
        raise DensevitError(f"--{wrong}") from None
    options = _inference_options(args)
    predictor = load(args.model, device, args.trust, args.runtime)
    predictor = predictor.with_inference(options, "command line") if options else predictor
    size = args.image_size
    if size is not None or options:
        size = requested_size(size, options, predictor.model, predictor.inference)
    folder = args.out or next_free_folder(Path("predictions"))
    prediction = PredictionRun(args, predictor, options, size, images, folder)
    with locked_folder(folder):
        if not args.resume:
            check_new_folder(folder, continue_hint(folder))  # another prediction may have written it meanwhile
        return prediction.run()


def _inference_options(args: Namespace) -> dict[str, Any]:
    """The given options of the section `inference`. Raises ConfigError for an invalid one."""
    from densevit.config import InferenceSection, section

    options = {key: getattr(args, key) for key in InferenceSection.model_fields if key != "batch_size" and key in args}
    alone = {key: value for key, value in options.items() if key != "stride" or "window" in options}
    section("inference", alone, "command line")  # the stride of the model's own window is checked with it
    return options


def _sides(text: str) -> int | list[int] | None:
    """Parses 512, 512x768 (height x width) or null."""
    try:
        sides = None if text == "null" else [int(side) for side in text.split("x")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a side (512), a height and width (512x768), or null.") from None
    return sides[0] if sides is not None and len(sides) == 1 else sides


def _image_size(text: str) -> "ImageSize":
    """Parses source, 1280 or 960x1280 (height x width)."""
    sides = text.split("x")
    if text == "source":
        return "source"
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise ArgumentTypeError(f"{text!r} is not a side (1280), a height and width (960x1280), or source.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _number_of_images(text: str) -> int:
    """Parses all, none or a number."""
    if text in ("all", "none"):
        return sys.maxsize if text == "all" else 0
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not all, none or a number of images such as 100.")
    return int(text)


def _factors(text: str) -> list[float]:
    try:
        return [float(factor) for factor in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.75,1,1.25.") from None
