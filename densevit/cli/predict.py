"""Runs a model on images; draws and writes its predictions.

Writes a folder of visualizations and predictions: COCO results, CSV, maps, point clouds.
"""

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.cli.evaluate import MODEL_OR_FILE, add_runtime, add_trust
from densevit.errors import DensevitError

if TYPE_CHECKING:
    from densevit.cli.input_images import ImageFile
    from densevit.inference.image_sizes import ImageSize
    from densevit.inference.predictor import Predictor

EXAMPLES = """examples:
  densevit predict runs/mine street.jpg
  densevit predict runs/mine photos 'more/**/*.jpg' clip.mp4 --out found --threshold 0.3
  densevit predict runs/mine clip.mp4 --video --out found
  densevit predict runs/mine photos --out found --resume
  densevit predict runs/mine aerial.tif --window 640
  densevit predict runs/mine/model.onnx photos
  find . -name '*.png' | densevit predict runs/mine - --out found
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_FILE)
    parser.add_argument(
        "sources",
        metavar="INPUT",
        nargs="+",
        help="an image, a folder, a pattern ('photos/**/*.jpg'), a video, a URL of an image, or - for a list of them "
        "on stdin",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="a new folder (default: ./predictions, or the next free one)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue in --out DIR: images that it has are not predicted again"
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="the lowest score of objects in drawn/ and predictions.csv; predictions.json has all (default: the score "
        "with the largest F1 in the model's validation; 0.5 for a model without one)",
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
    """Runs the command. Returns 1 if an image could not be read; the others are processed."""
    from densevit.atomic_io import check_new_folder, check_writable, next_free_folder
    from densevit.cli.input_images import find_images
    from densevit.cli.prediction_files import continue_hint
    from densevit.data.io.prediction_tables import check_pyarrow
    from densevit.file_lock import locked_folder
    from densevit.inference.image_sizes import requested_size
    from densevit.inference.loading import device_of, load

    if args.batch_size < 1:
        raise DensevitError(f"--batch-size is {args.batch_size}; at least 1 is expected.")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise DensevitError(f"--threshold is {args.threshold}; a score from 0 to 1 is expected.")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise DensevitError(f"--focal is {args.focal}; the focal length in pixels is expected, above 0.")
    if args.resume and args.out is None:
        raise DensevitError("--resume needs the folder to continue: --out DIR.")
    if args.resume and args.video:
        raise DensevitError("--resume cannot continue a drawn video. Fix: leave --video out, or name a new folder.")
    if args.format == "parquet":
        check_pyarrow("--format parquet")
    images = find_images(args.sources)
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
    with locked_folder(folder):
        if not args.resume:
            check_new_folder(folder, continue_hint(folder))  # another prediction may have written it meanwhile
        return _predict(args, predictor, options, size, images, folder)


def _predict(
    args: Namespace,
    predictor: "Predictor",
    options: dict[str, Any],
    image_size: "ImageSize | None",
    images: Sequence["ImageFile"],
    folder: Path,
) -> int:
    """Predicts into a folder to which only this process writes. options: the given options of `inference`."""
    from densevit.cli.input_images import read_ahead
    from densevit.cli.prediction_files import PredictionFiles
    from densevit.inference.image_sizes import transform_to, warn_of_unused_windows
    from densevit.inference.predictor import BATCHES_AT_ONCE, WINDOW_SCORE

    thresholds = _thresholds(args, predictor)
    written_from = {
        head: min(score, WINDOW_SCORE) if predictor.merges_windows(head) else 0.0 for head, score in thresholds.items()
    }
    settings = {
        "model": args.model,
        "weights": predictor.fingerprint,
        "inputs": args.sources,
        "threshold": thresholds,
        "focal": args.focal,
        "inference": options,
        "image_size": image_size,
        "video": args.video,
        "format": args.format,
    }
    files = PredictionFiles(
        folder,
        predictor.classes,
        thresholds,
        args.focal,
        predictor.target_types,
        settings,
        args.resume,
        args.video,
        args.format == "parquet",
    )
    left = files.remaining(images)
    if args.resume:
        args.output.show(f"{folder} has {len(images) - len(left)} of {len(images)} images; {len(left)} are left")
    errors: list[DensevitError] = []
    written = 0
    sizes: set[tuple[int, int]] = set()

    def predicted() -> Iterator["ImageFile"]:
        for chunk in read_ahead(left, BATCHES_AT_ONCE * args.batch_size):
            readable = [(image, pixels) for image, pixels in chunk if not isinstance(pixels, DensevitError)]
            for image, pixels in chunk:
                if isinstance(pixels, DensevitError):
                    errors.append(pixels)
                    files.add_failed(image)
            sizes.update((pixels.shape[0], pixels.shape[1]) for _, pixels in readable)
            found = predictor.predict(
                [pixels for _, pixels in readable], written_from, args.batch_size, image_size=image_size
            )
            for (image, pixels), result in zip(readable, found, strict=True):
                text = files.add(image, pixels, result)
                if text:
                    args.output.show(f"{image.file_name}: {text}")
                yield image

    try:
        with files:
            for _ in args.output.track(predicted(), "Predicting", len(left)):
                written += 1
    except KeyboardInterrupt:
        rest = "drawn/ has these" if args.video else f"Continue with --out {folder} --resume"
        args.output.problem(f"Stopped after {written} of {len(left)} images. {rest}")
        return 130
    for error in errors:
        args.output.problem(str(error))
    if options.get("window") is not None:
        warn_of_unused_windows(predictor.inference, sizes, transform_to(image_size, predictor.resize))
    left_out = f"; {len(errors)} could not be read" if errors else ""
    args.output.show(f"{folder}: {written} of {len(left)} images{left_out}")
    for head, (listed, found) in files.objects.items():
        path = f"{head}/predictions" if len(thresholds) > 1 else "predictions"
        every = f"{path}.json" if args.format == "json" else path.removesuffix("predictions") + "objects.parquet"
        lowest = f" of score {written_from[head]:g} or more" if written_from[head] else ""
        args.output.show(
            f"{path}.csv: the {listed} objects of score {thresholds[head]:.4g} or more "
            f"({threshold_origin(args.threshold, predictor, head)}); {every}: all {found}{lowest}"
        )
    result = {"out": str(folder), "images": written, "skipped": len(images) - len(left), "threshold": thresholds}
    args.output.result({**result, "problems": [str(error) for error in errors]})
    return 1 if errors else 0


def _thresholds(args: Namespace, predictor: "Predictor") -> dict[str, float]:
    """The lowest score of the objects that are drawn and listed, by head."""
    if args.threshold is not None:
        return dict.fromkeys(predictor.classes, args.threshold)
    return predictor.default_thresholds


def threshold_origin(given: float | None, predictor: "Predictor", head: str) -> str:
    """The origin of the threshold of a head, as text. given: --threshold."""
    if given is not None:
        return "--threshold"
    if head in getattr(predictor.model, "thresholds", {}):
        return "that inside the file; see --threshold"
    if head in predictor.score_thresholds:
        return "the largest F1 in the model's validation; see --threshold"
    return "the default, because the model has none from a validation; see --threshold"


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


def _factors(text: str) -> list[float]:
    try:
        return [float(factor) for factor in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.75,1,1.25.") from None
