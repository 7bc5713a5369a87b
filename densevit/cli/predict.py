"""Runs a model on pictures; leaves a folder with what it sees drawn, and written: COCO results, maps, point clouds."""

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import DensevitError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from densevit.config import InferenceSection
    from densevit.inference.sources import ImageFile
    from densevit.model import DenseModel

BATCHES_AT_ONCE = 4  # so many are read before any is run, so that pictures of one size find one another


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or a model file")
    parser.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="a picture, a folder, or a pattern: 'photos/**/*.jpg'"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="a new folder; ./predictions, or the next free one, if left out"
    )
    parser.add_argument(
        "--threshold", metavar="SCORE", type=float, default=0.5, help="the lowest score drawn (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=8, help="pictures that run together (%(default)s)"
    )
    parser.add_argument(
        "--focal",
        metavar="PIXELS",
        type=float,
        help="the camera's focal length in pixels of the pictures: depth becomes point clouds, clouds/NAME.ply, too",
    )
    looks = parser.add_argument_group("how dense heads look at a picture; what is left out is as the run has it")
    for name, kind, form, text in (
        ("window", _sides, "SIDE|HxW", "slide a window of so many pixels of the resized picture; null: see it whole"),
        ("stride", _sides, "SIDE|HxW", "from one window to the next; null: two thirds of it"),
        ("scales", _factors, "S,S,...", "see the picture at these scales: 0.75,1,1.25"),
        ("average", str, "KIND", "average logits or probabilities"),
    ):
        looks.add_argument(f"--{name}", type=kind, metavar=form, default=SUPPRESS, help=text)
    looks.add_argument("--flip", action=BooleanOptionalAction, default=SUPPRESS, help="see the mirrored picture too")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... ; an accelerator, if left out")


def run(args: Namespace) -> int:
    """Runs the command. Returns 1 where some picture could not be read; the others are done."""
    from rich.console import Console
    from rich.progress import track

    from densevit.inference.results import PredictionFiles, check_new_folder, next_free_folder
    from densevit.inference.sources import find_images
    from densevit.weights.model_file import load

    if args.batch_size < 1:
        raise DensevitError(f"--batch-size is {args.batch_size}; at least 1 is expected.")
    if not 0 <= args.threshold <= 1:
        raise DensevitError(f"--threshold is {args.threshold}; a score from 0 to 1 is expected.")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise DensevitError(f"--focal is {args.focal}; the focal length in pixels is expected, above 0.")
    pictures = find_images(args.sources)
    folder = check_new_folder(args.out) if args.out else next_free_folder("predictions")
    model = load(args.run).to(_device(args.device))
    inference = _inference(model, args)
    errors: list[DensevitError] = []

    def predicted() -> Iterator["ImageFile"]:
        for chunk in _read_ahead(pictures, BATCHES_AT_ONCE * args.batch_size):
            readable = [(picture, pixels) for picture, pixels in chunk if not isinstance(pixels, DensevitError)]
            errors.extend(pixels for _, pixels in chunk if isinstance(pixels, DensevitError))
            found = model.predict([pixels for _, pixels in readable], args.batch_size, inference)
            for (picture, pixels), predictions in zip(readable, found, strict=True):
                files.add(picture, pixels, predictions)
                yield picture

    with PredictionFiles(folder, model.classes, args.threshold, args.focal) as files:
        done = list(track(predicted(), "Predicting", len(pictures), console=Console(stderr=True), transient=True))
    for error in errors:
        print(error, file=sys.stderr)
    left_out = f"; {len(errors)} could not be read" if errors else ""
    print(f"{folder}: {len(done)} of {len(pictures)} pictures{left_out}")
    return 1 if errors else 0


def _inference(model: "DenseModel", args: Namespace) -> "InferenceSection | None":
    """The run's `inference` section under the options that were given; None where there were none."""
    from densevit.config import InferenceSection, inference_with
    from densevit.model import check_inference

    given = {key: getattr(args, key) for key in InferenceSection.model_fields if key != "batch_size" and key in args}
    if not given:
        return None
    section = inference_with(model.inference, given, "command line")
    check_inference(model, section)
    return section


def _sides(text: str) -> int | list[int] | None:
    """512, or 512x768 for height and width, or null."""
    try:
        sides = None if text == "null" else [int(side) for side in text.split("x")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no side (512), no height and width (512x768), and not null.") from None
    return sides[0] if sides is not None and len(sides) == 1 else sides


def _factors(text: str) -> list[float]:
    try:
        return [float(factor) for factor in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no list of numbers such as 0.75,1,1.25.") from None


def _read_ahead(
    pictures: Sequence["ImageFile"], size: int
) -> Iterator[list[tuple["ImageFile", "np.ndarray | DensevitError"]]]:
    """Chunks of pictures with their pixels or what is wrong with them; the next is read while one is used."""
    with ThreadPoolExecutor() as pool:

        def reading(start: int) -> list[tuple["ImageFile", Future["np.ndarray | DensevitError"]]]:
            return [(picture, pool.submit(_read, picture.path)) for picture in pictures[start : start + size]]

        chunk = reading(0)
        for start in range(size, len(pictures) + size, size):
            ready, chunk = chunk, reading(start)
            yield [(picture, pixels.result()) for picture, pixels in ready]


def _read(path: Path) -> "np.ndarray | DensevitError":
    from densevit.data.io.images import read_image

    try:
        return read_image(path)
    except DensevitError as error:
        return error


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if name.partition(":")[0] == "meta":
        raise DensevitError("--device meta computes nothing. Leave it out to take what is there.")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        reason = str(error).splitlines()[0].rstrip(".")
        raise DensevitError(f"--device {name}: {reason}. Leave it out to take what is there.") from None
