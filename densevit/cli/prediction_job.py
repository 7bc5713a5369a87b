"""The processes of `densevit predict`: one that predicts the whole list, or several that predict parts of it."""

import hashlib
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from densevit.atomic_io import check_new_folder, check_writable, locked_folder, next_free_folder, sigterm_unwinds
from densevit.channels import Channels
from densevit.cli.frame_counts import FRAME_COUNTS, keep_counts
from densevit.cli.input_images import ImageFile, find_images
from densevit.cli.joined_predictions import join
from densevit.cli.prediction_files import begin_parts, continue_hint, read_settings
from densevit.cli.prediction_parts import COMPLETE, DIVISION, NEW, PARTS, RUNNING, Part, PartState, remove_parts
from densevit.cli.prediction_run import INTERRUPTED, PredictionRun, check_lowest_score
from densevit.config import InferenceSection, section
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.prediction_tables import check_pyarrow
from densevit.errors import DensevitError
from densevit.inference import loading
from densevit.inference.image_sizes import requested_size

_RANKS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
_ANY = Channels(("any",), "", ())  # files of all suffixes


class Process(NamedTuple):
    """This process among those of torchrun or srun: its number, from 0, how many there are, and its number on its
    machine."""

    rank: int = 0
    total: int = 1
    local: int = 0


def run_job(args: Namespace) -> int:
    """Predicts as the arguments say: alone, as one of several processes, or by starting one for each device."""
    process = this_process()
    _check(args, process)
    starts = args.devices > process.total
    names = sys.stdin.read() if "-" in args.sources else ""
    images = _find(args, names, _ANY)  # a wrong path is an error before the model is loaded
    for image in images if args.video else ():
        if image.frame is None:
            raise DensevitError(f"--video: {image.file_name} is an image. Fix: name videos only, or leave --video out.")
    device = _device(args.device, args.devices, process)
    options = _inference_options(args)
    predictor = loading.load(args.model, torch.device("cpu") if starts else device, args.trust, args.runtime)
    predictor = predictor.with_inference(options, "command line") if options else predictor
    if predictor.channels.files or any(image.location.lower().endswith(CHANNEL_FILES) for image in images):
        images = _find(args, names, predictor.channels)
    size = args.image_size
    if size is not None or options:
        size = requested_size(size, options, predictor.model, predictor.inference)
    folder = args.out = args.out or next_free_folder(Path("predictions"))
    prediction = PredictionRun(args, predictor, options, size, images, folder)
    count = _count(args, process)
    if count is None:
        with locked_folder(folder):
            if not args.resume:
                check_new_folder(folder, continue_hint(folder))  # another prediction may have written it meanwhile
            remove_parts(folder)  # of a join that was stopped at its end
            keep_counts((image.video for image in images), folder / FRAME_COUNTS)
            return prediction.run()
    division = (count, args.batch_size, _digest(images))
    begin_parts(folder, prediction.settings | dict(zip(DIVISION, division, strict=True)))
    keep_counts((image.video for image in images), folder / FRAME_COUNTS)
    parts = [Part(folder, number, count) for number in range(1, count + 1)]
    code = _start(args, parts, len(images), names) if starts else prediction.run(_todo(args, process, parts))
    if starts or (process.total == 1 and args.part is None):
        return code if code > 1 else _joined(args, parts)
    if code != INTERRUPTED:
        args.output.show(f"When all parts are complete: densevit predictions join {folder}")
    return 0 if code == 1 and process.total > 1 else code  # torchrun ends the other processes if one returns 1


def _find(args: Namespace, names: str, channels: Channels) -> list[ImageFile]:
    """The images of the sources for a model of these channels. names: the text of stdin."""
    sys.stdin = io.StringIO(names) if names else sys.stdin
    return find_images(args.sources, args.out / FRAME_COUNTS if args.out else None, channels)


def _check(args: Namespace, process: Process) -> None:
    """Raises DensevitError for options that are wrong, alone or together."""
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
    if args.devices < 1 or (process.total > 1 and args.devices not in (1, process.total)):
        raise DensevitError(f"--devices is {args.devices}; expected {process.total}, the number of started processes.")
    shares = args.part is not None or process.total > 1
    if args.devices > 1 and args.part is not None:
        raise DensevitError("--part is predicted by one process. Fix: leave --devices or --part out.")
    if shares and args.out is None:
        raise DensevitError("Parts are predicted into one folder. Fix: name it with --out DIR.")
    if args.video and (shares or args.devices > 1):
        raise DensevitError("--video draws the frames in order, by one process. Fix: leave --video out.")
    if args.format == "parquet":
        check_pyarrow("--format parquet")
    if args.out and not (args.resume or shares):
        check_new_folder(args.out, continue_hint(args.out))
    else:
        check_writable(args.out or Path.cwd(), fix="Fix: name a folder with --out DIR.")


def _device(name: str, devices: int, process: Process) -> torch.device:
    """Returns the device of this process: on NVIDIA GPUs one each, if no number is given."""
    try:
        device = loading.device_of(name)
    except DensevitError as wrong:
        raise DensevitError(f"--{wrong}") from None
    if device.type != "cuda" or max(devices, process.total) == 1:
        return device
    available = torch.cuda.device_count() if name in ("auto", "cuda") else 1
    if devices > available:
        raise DensevitError(
            f"--devices is {devices}, but --device {name} is {available} GPU. Fix: name as many as it has."
        )
    return device if available == 1 else torch.device("cuda", process.local % available)


def _inference_options(args: Namespace) -> dict[str, Any]:
    """The given options of the section `inference`. Raises ConfigError for an invalid one."""
    options = {key: getattr(args, key) for key in InferenceSection.model_fields if key != "batch_size" and key in args}
    alone = {key: value for key, value in options.items() if key != "stride" or "window" in options}
    section("inference", alone, "command line")  # the stride of the model's own window is checked with it
    return options


def _digest(images: Sequence[ImageFile]) -> str:
    """Returns a text by which the list of images is recognised."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.image_id!r} {image.file_name}\n".encode(errors="surrogateescape"))
    return f"{len(images)} images, {digest.hexdigest()[:16]}"


def this_process() -> Process:
    """Reads the variables that torchrun or srun have set for this process."""
    for rank, count, local in _RANKS:
        if rank in os.environ and count in os.environ:
            return Process(int(os.environ[rank]), int(os.environ[count]), int(os.environ.get(local, 0)))
    return Process()


def _count(args: Namespace, process: Process) -> int | None:
    """Returns the number of parts, None for a prediction without. A prediction is continued with the same parts."""
    if args.part is not None:
        return int(args.part[1])
    saved = read_settings(args.out).get(PARTS) if args.resume and continue_hint(args.out) else None
    several = max(process.total, args.devices)
    return saved if saved is not None or several == 1 else several


def _todo(args: Namespace, process: Process, parts: Sequence[Part]) -> list[tuple[Part, PartState]]:
    """Returns the parts that this process may take: its own, with --resume all that have ended before they were
    complete, or with failures."""
    if args.part is not None or (process.total > 1 and not args.resume):
        parts = [parts[process.rank if args.part is None else args.part[0] - 1]]
    else:
        first = process.rank * len(parts) // process.total
        parts = [*parts[first:], *parts[:first]]
    found = [(part, part.state()) for part in parts]
    for part, state in found:
        if state.name == RUNNING and args.part is None and args.resume:
            args.output.show(f"{part} is left to {state.owner}, which is running")
        elif state.name == RUNNING or (state.name != NEW and not args.resume):
            fix = "wait until it ends" if state.name == RUNNING else "add --resume"
            raise DensevitError(f"{part} in {args.out}: {state.owner} has begun it ({state.name}). Fix: {fix}.")
    return [one for one in found if one[1].name != RUNNING and (one[1].name != COMPLETE or one[1].failed)]


def _start(args: Namespace, parts: Sequence[Part], images: int, names: str) -> int:
    """Starts a process for each device and waits for all. Returns the status of one that failed, or 0.

    names: the list on stdin.
    """
    command = [sys.executable, "-m", "densevit", *shlex.split(args.command)[1:], "--out", str(args.out), "--quiet"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // args.devices))}
    children: list[subprocess.Popen[str]] = []
    for rank in map(str, range(args.devices)):
        ranks = dict(zip(_RANKS[0], (rank, str(args.devices), rank), strict=True))
        child = subprocess.Popen(
            command,
            env=threads | os.environ | ranks,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C comes from this process only, once
        )
        children.append(child)
    for stdin in (child.stdin for child in children if child.stdin is not None):
        with suppress(BrokenPipeError), stdin:  # a process that has failed
            stdin.write(names)
    try:
        with sigterm_unwinds():
            predicted = _predicted(children, parts)
            for _ in args.output.track(predicted, f"Predicting on {args.devices} devices", images):
                pass
    except (KeyboardInterrupt, SystemExit):
        for child in children:
            child.send_signal(signal.SIGINT)
        for child in children:
            child.wait()
        args.output.problem(f"Stopped. Continue with --out {args.out} --resume")
        raise
    return max((child.returncode for child in children if child.returncode not in (0, 1)), default=0)


def _predicted(children: Sequence["subprocess.Popen[str]"], parts: Sequence[Part]) -> Iterator[int]:
    """Yields once for each image that is predicted, until all processes have ended."""
    done, running = 0, True
    while running:
        running = any(child.poll() is None for child in children)
        found = sum(part.state().images for part in parts)
        yield from range(done, found)
        done = max(done, found)
        time.sleep(running)


def _joined(args: Namespace, parts: Sequence[Part]) -> int:
    """Joins the parts if all are complete. Returns 1 if one is not, or if more than --max-failed images failed."""
    states = [part.state() for part in parts]
    left = sum(state.name != COMPLETE for state in states)
    if left:
        args.output.problem(f"{left} of {len(parts)} parts are not complete. Continue with --out {args.out} --resume")
        return 1
    images, failed = sum(state.images for state in states), sum(state.failed for state in states)
    join(args.out, args.trust)
    left_out = f"; {failed} could not be read, see failed.csv" if failed else ""
    args.output.show(f"{args.out}: {images} images of {len(parts)} parts are joined{left_out}")
    if args.devices > 1:  # one process alone has written its result
        args.output.result({"out": str(args.out), "images": images, "failed": failed})
    return 1 if failed > args.max_failed else 0
