"""Runs a model on images; draws and writes its predictions.

Writes a folder of visualizations and predictions: COCO results, CSV, maps, point clouds.
"""

import io
import math
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.cli.evaluate import MODEL_OR_FILE, add_runtime, add_trust
from densevit.errors import DensevitError

if TYPE_CHECKING:
    from densevit.channels import Channels
    from densevit.inference.blocks import Counts
    from densevit.inference.folder_prediction import FolderPrediction
    from densevit.inference.image_file import ImageFile
    from densevit.inference.image_sizes import ImageSize

_INTERRUPTED = 130  # exit status, as of a shell
_SHOWN_FAILURES = 20  # failed.csv has all

EXAMPLES = """examples:
  densevit predict runs/mine examples/coffee.jpg
  densevit predict runs/mine photos 'more/**/*.jpg' clip.mp4 --out found --threshold 0.3
  densevit predict runs/mine clip.mp4 --video --out found
  densevit predict runs/mine photos --out found --resume
  densevit predict runs/mine photos --out found --devices 4
  densevit predict runs/mine photos --out found --part 3/16
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
        help="continue in --out DIR after an interruption: predicts the images that it does not have, also those that "
        "can be read now",
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
    group = parser.add_argument_group("several processes, which share --out DIR")
    group.add_argument(
        "--devices", metavar="N", type=int, default=1, help="predict N parts on N devices of this machine"
    )
    group.add_argument(
        "--part",
        metavar="I/N",
        type=_part,
        help="predict part I of N, from 1, in a job of an array or on another machine (default: as torchrun or srun "
        "say); afterwards: densevit predictions join DIR",
    )
    add_runtime(parser)
    add_trust(parser)


def run(args: Namespace) -> int:
    """Runs the command. Returns 1 if more images than --max-failed could not be read; the others are processed."""
    from densevit.atomic_io import next_free_folder
    from densevit.channels import Channels
    from densevit.cli.prediction_processes import devices_of, predict_on_devices, this_process
    from densevit.config import InferenceSection, section
    from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
    from densevit.inference import loading
    from densevit.inference.folder_prediction import FolderPrediction, PredictionOptions
    from densevit.inference.input_images import find_images
    from densevit.inference.joining import join
    from densevit.inference.prediction_folder import open_folder

    process = this_process()
    part = args.part or (process.rank + 1, process.total)
    _check(args, part[1] > 1)
    names = sys.stdin.read() if "-" in args.sources else ""

    def find(channels: "Channels") -> "list[ImageFile]":
        sys.stdin = io.StringIO(names) if names else sys.stdin
        return find_images(args.sources, channels)

    images = find(Channels(("any",), "", ()))  # a wrong path is an error before the model is loaded
    for image in images if args.video else ():
        if image.frame is None:
            raise DensevitError(f"--video: {image.file_name} is an image. Fix: name videos only, or leave --video out.")
    devices = devices_of(args.device, args.devices)
    inference = {
        key: getattr(args, key) for key in InferenceSection.model_fields if key != "batch_size" and key in args
    }
    alone = {key: value for key, value in inference.items() if key != "stride" or "window" in inference}
    section("inference", alone, "command line")  # the stride of the model's own window is checked with it
    device = "cpu" if args.devices > 1 else devices[process.local % len(devices)]
    predictor = loading.load(args.model, device, args.trust, args.runtime)
    if predictor.channels.files or any(image.location.lower().endswith(CHANNEL_FILES) for image in images):
        images = find(predictor.channels)
    args.out = args.out or next_free_folder(Path("predictions"))
    options = PredictionOptions(
        args.model,
        args.sources,
        args.threshold,
        args.min_score,
        args.focal,
        inference,
        args.image_size,
        args.video,
        args.format,
        args.draw,
        args.batch_size,
        part if args.devices == 1 else (1, args.devices),
    )
    prediction = FolderPrediction(predictor, images, args.out, options)
    if args.draw is None and prediction.drawn < len(images):
        args.output.show(
            f"The first {prediction.drawn} of {len(images):,} images are drawn. For others: --draw all or --draw N"
        )
    open_folder(args.out, prediction.settings, args.resume)
    if args.devices > 1:
        status = predict_on_devices(args, len(images), devices, names)
        return status or _show(args, prediction, join(args.out, lambda: prediction.output.maps), len(images))
    status = _predict(args, prediction)
    return 0 if status == 1 and process.total > 1 else status  # torchrun ends the other processes if one returns 1


def _check(args: Namespace, shares: bool) -> None:
    """Raises DensevitError for options that are wrong, alone or together. shares: whether it predicts one of several
    parts."""
    from densevit.atomic_io import check_new_folder, check_writable
    from densevit.data.io.prediction_tables import check_pyarrow
    from densevit.inference.prediction_folder import resume_hint
    from densevit.inference.scores import check_lowest_score

    focal = 1.0 if args.focal is None else args.focal
    scores = {"--threshold": args.threshold, "--min-score": args.min_score}
    wrong = {name: score for name, score in scores.items() if score is not None and not 0 <= score <= 1}
    problems = (
        *((True, f"{name} is {score}; a score from 0 to 1 is expected.") for name, score in wrong.items()),
        (args.batch_size < 1, f"--batch-size is {args.batch_size}; at least 1 is expected."),
        (args.max_failed < 0, f"--max-failed is {args.max_failed}; a number of images is expected, at least 0."),
        (not 0 < focal < math.inf, f"--focal is {args.focal}; the focal length in pixels is expected, above 0."),
        (args.resume and args.out is None, "--resume needs the folder to continue: --out DIR."),
        (
            args.resume and args.video,
            "--resume cannot continue a drawn video. Fix: leave --video out, or name a new folder.",
        ),
        (
            args.draw is not None and args.video,
            "--draw: with --video, all frames are drawn. Fix: leave --draw or --video out.",
        ),
        (args.devices < 1, f"--devices is {args.devices}; at least 1 is expected."),
        (args.devices > 1 and shares, "A part is predicted by one process. Fix: leave --devices or --part out."),
        (shares and args.out is None, "Parts are predicted into one folder. Fix: name it with --out DIR."),
        (
            args.video and (shares or args.devices > 1),
            "--video draws the frames in order, by one process. Fix: leave --video out.",
        ),
    )
    for applies, message in problems:
        if applies:
            raise DensevitError(message)
    if args.min_score is not None and args.threshold is not None:
        check_lowest_score(args.min_score, args.threshold, "--threshold")
    if args.format == "parquet":
        check_pyarrow("--format parquet")
    if args.out and not (args.resume or shares):
        check_new_folder(args.out, resume_hint(args.out))
    else:
        check_writable(args.out or Path.cwd(), fix="Fix: name a folder with --out DIR.")


def _predict(args: Namespace, prediction: "FolderPrediction") -> int:
    """Predicts the images that are left, and shows progress and the predictions per image."""
    from densevit.inference.joining import join
    from densevit.inference.result import text_of_image

    output, part, stopped = args.output, prediction.part, False
    with part.begun(args.resume):
        left = prediction.left()
        count = sum(map(len, left.values()))
        if args.resume:
            output.show(f"{part} has {part.total - count} of {part.total} images; {count} are left")
        try:
            with closing(prediction.predict(left)) as stream:
                for predicted in output.track(stream, f"Predicting {part}", count):
                    if predicted.result is not None and (text := text_of_image(predicted.result)):
                        output.show(f"{predicted.image.file_name}: {text}")
        except KeyboardInterrupt:
            stopped = True
        counts = join(args.out, lambda: prediction.output.maps, False) if part.count == 1 else part.counts
    if stopped:
        rest = "drawn/ has these" if args.video else f"Continue with --out {args.out} --resume"
        output.problem(f"Stopped after {counts.images} of {part.total} images. {rest}")
        return _INTERRUPTED
    if part.count > 1:
        output.show(f"When all parts are complete: densevit predictions join {args.out}")
    return _show(args, prediction, counts, part.total)


def _show(args: Namespace, prediction: "FolderPrediction", counts: "Counts", total: int) -> int:
    """Shows what was predicted. Returns the exit status. total: the number of images."""
    from densevit.inference.scores import threshold_origin

    output, reasons = args.output, [failed.reason for failed in counts.failed]
    more = len(reasons) - _SHOWN_FAILURES
    for problem in reasons[:_SHOWN_FAILURES] + [f"{more:,} more images could not be read."] * (more > 0):
        output.problem(problem)
    see = ", see failed.csv" if (args.out / "failed.csv").is_file() else ""
    left_out = f"; {len(reasons)} could not be read{see}" if reasons else ""
    output.show(f"{args.out}: {counts.images} of {total} images{left_out}")
    for head, (listed, every) in prediction.objects.items():
        path = f"{head}/" if len(prediction.thresholds) > 1 else ""
        name = "predictions.json" if args.format == "json" else "objects.parquet"
        lowest = f" of score {prediction.lowest[head]:g} or more" if prediction.lowest[head] else ""
        origin = threshold_origin(args.threshold, prediction.output.predictor, head)
        output.show(
            f"{path}predictions.csv: the {listed} objects of score {prediction.thresholds[head]:.4g} or more "
            f"({origin}); {path}{name}: all {every}{lowest}"
        )
    result = {"out": str(args.out), "images": counts.images, "threshold": prediction.thresholds, "problems": reasons}
    output.result(result)
    return 1 if len(reasons) > args.max_failed else 0


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
