"""Runs a model on images; draws and writes its predictions.

Writes a folder of visualizations and predictions: COCO results, CSV, maps, point clouds.
"""

import math
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import DensevitError
from densevit_batch.commands.predict_arguments import add_arguments

if TYPE_CHECKING:
    from densevit_batch.folder_prediction import FolderPrediction
    from densevit_batch.prediction_folder import Counts

_INTERRUPTED = 130  # exit status, as of a shell
_SHOWN_FAILURES = 20  # failed.csv lists all

__all__ = ["EXAMPLES", "add_arguments", "run"]
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


def run(args: Namespace) -> int:
    """Runs the command. Returns 1 if more than --max-failed images could not be read; processes all others."""
    from densevit.atomic_io import next_free_folder
    from densevit.channels import Channels
    from densevit.config import InferenceSection
    from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
    from densevit.inference import model_loading
    from densevit_batch.commands.prediction_processes import devices_of, predict_on_devices, this_process
    from densevit_batch.folder_prediction import FolderPrediction
    from densevit_batch.image_listing import find_images
    from densevit_batch.joining import join_blocks
    from densevit_batch.prediction_folder import open_folder

    rank, processes, local = this_process()
    part = args.part or (rank + 1, processes)
    _check(args, part[1] > 1)
    names = sys.stdin.read() if "-" in args.sources else ""
    images = find_images(args.sources, Channels(("any",), "", ()), names)  # raises for a wrong path before loading
    for image in images if args.video else ():
        if image.frame is None:
            raise DensevitError(f"--video: {image.file_name} is an image. Fix: name videos only, or leave out --video.")
    devices = devices_of(args.device, args.devices)
    inference = {
        key: getattr(args, key) for key in InferenceSection.model_fields if key != "batch_size" and key in args
    }
    device = "cpu" if args.devices > 1 else devices[local % len(devices)]
    model = model_loading.load(args.model, device, args.trust, args.runtime)
    if model.channels.files or any(image.location.lower().endswith(CHANNEL_FILES) for image in images):
        images = find_images(args.sources, model.channels, names)
    args.out = args.out or next_free_folder(Path("predictions"))
    prediction = FolderPrediction(model, images, args, inference, part if args.devices == 1 else (1, args.devices))
    if args.draw is None and prediction.drawn < len(images):
        args.output.show(
            f"The first {prediction.drawn} of {len(images):,} images are drawn. To draw more: --draw all or --draw N"
        )
    open_folder(args.out, prediction.settings, args.resume)
    if args.devices > 1:
        return predict_on_devices(args, devices, names) or _show(
            args, prediction, join_blocks(args.out, lambda: prediction.output.maps), len(images)
        )
    status = _predict(args, prediction)
    return 0 if status == 1 and processes > 1 else status  # torchrun ends the other processes after a status of 1


def _check(args: Namespace, shares: bool) -> None:
    """Raises DensevitError for wrong options and wrong combinations. shares: whether the process predicts one of
    several parts."""
    from densevit.atomic_io import check_new_folder, check_writable
    from densevit_batch.prediction_folder import resume_hint
    from densevit_batch.prediction_tables import check_pyarrow

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
            "--resume cannot continue a drawn video. Fix: leave out --video, or name a new folder.",
        ),
        (
            args.draw is not None and args.video,
            "--draw: with --video, all frames are drawn. Fix: leave out --draw or --video.",
        ),
        (args.devices < 1, f"--devices is {args.devices}; at least 1 is expected."),
        (args.devices > 1 and shares, "One process predicts a part. Fix: leave out --devices or --part."),
        (shares and args.out is None, "All parts need one folder. Fix: name it with --out DIR."),
        (
            args.video and (shares or args.devices > 1),
            "--video draws the frames in order, in one process. Fix: leave out --video.",
        ),
    )
    for applies, message in problems:
        if applies:
            raise DensevitError(message)
    if args.format == "parquet":
        check_pyarrow("--format parquet")
    if args.out and not (args.resume or shares):
        check_new_folder(args.out, resume_hint(args.out))
    else:
        check_writable(args.out or Path.cwd(), fix="Fix: name a folder with --out DIR.")


def _predict(args: Namespace, prediction: "FolderPrediction") -> int:
    """Predicts the remaining images; shows progress and predictions per image."""
    from densevit_batch.image_texts import text_of_image
    from densevit_batch.joining import join_blocks

    output, part, stopped = args.output, prediction.part, False
    with part.begun(args.resume):
        left = prediction.left()
        count = sum(map(len, left.values()))
        if args.resume:
            output.show(f"{part} has {part.total - count} of {part.total} images; {count} are left")
        try:
            with closing(prediction.predict(left)) as stream:
                for predicted in output.track(stream, f"Predicting {part}", count):
                    result = predicted.result
                    if result is not None and (text := text_of_image(result.predictions, result.classes, result.types)):
                        output.show(f"{predicted.image.file_name}: {text}")
        except KeyboardInterrupt:
            stopped = True
        counts = join_blocks(args.out, lambda: prediction.output.maps, False) if part.count == 1 else part.counts
    if stopped:
        rest = "drawn/ has these" if args.video else f"Continue with --out {args.out} --resume"
        output.problem(f"Stopped after {counts.images} of {part.total} images. {rest}")
        return _INTERRUPTED
    if part.count > 1:
        output.show(f"When all parts are complete: densevit predictions join {args.out}")
    return _show(args, prediction, counts, part.total)


def _show(args: Namespace, prediction: "FolderPrediction", counts: "Counts", total: int) -> int:
    """Shows a summary of the predictions. Returns the exit status. total: the number of images."""
    from densevit.errors import listed
    from densevit_batch.folder_prediction import threshold_origin

    output, reasons = args.output, [failed.reason for failed in counts.failed]
    more = len(reasons) - _SHOWN_FAILURES
    for problem in reasons[:_SHOWN_FAILURES] + [f"{more:,} more images could not be read."] * (more > 0):
        output.problem(problem)
    see = ", see failed.csv" if (args.out / "failed.csv").is_file() else ""
    unreadable = f"; {len(reasons)} could not be read{see}" if reasons else ""
    output.show(f"{args.out}: {counts.images} of {total} images{unreadable}", *prediction.output.units())
    for head, every in counts.objects.items():
        path = f"{head}/" if len(prediction.thresholds) > 1 else ""
        name = "predictions.json" if args.format == "json" else "objects.parquet"
        lowest = f" of score {prediction.lowest[head]:g} or more" if prediction.lowest[head] else ""
        # Classes that the json lacks have ids above those of the json.
        absent = listed(
            c.name
            for c in prediction.output.maps.classes[head]
            if c.file_id > max(prediction.ids.values(), default=c.file_id)
        )
        ids = f"; category ids are the json's, by name{absent and f'; it has no {absent}'}" if prediction.ids else ""
        output.show(
            f"{path}predictions.csv: the {counts.listed[head]} objects of score {prediction.thresholds[head]:.4g} or "
            f"more ({threshold_origin(args.threshold, prediction.output.model, head)}); {path}{name}: all "
            f"{every}{lowest}{ids}"
        )
    output.result(
        {"out": str(args.out), "images": counts.images, "threshold": prediction.thresholds, "problems": reasons}
    )
    return 1 if len(reasons) > args.max_failed else 0
