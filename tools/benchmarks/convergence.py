"""AP of detectors against training time on the built-in scenes: densevit's recipes and transformers' DETR.

First the throughput of each contestant is measured, images per second of complete training steps with the loader, in
interleaved rounds; the ratio to `detr_options` is the median of the ratios of the rounds, so that other load has little
effect. A yardstick second is the time in which `detr_options` trains on 60 images. Then each contestant is trained for
each number of yardstick minutes, that is for minutes * 60 * 60 * ratio images, with its schedule annealed to that
budget, and validated at equal intervals on the 500 scenes of the split `test`, which was not used to choose recipes.
Time is images divided by throughput: validation does not count, and neither does load during the training.

OUT/results.json is written after each run. Runs in it are not repeated, and interrupted runs are resumed. At the end
the tables (OUT/convergence.md) and the plot (OUT/convergence.svg) are written.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from convergence_report import Results, plot, tables

from densevit.training.run.metrics_csv import MetricsCsv

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
YARDSTICK, CHALLENGER = "detr_options", "detector"
YARDSTICK_SPEED = 60.0  # images per second of `detr_options`
WARMUP_STEPS, TIMED_STEPS = 20, 60  # of a measurement of throughput
BATCH_SIZE = 8
FIXED = (f"data.batch_size={BATCH_SIZE}", "trainer.loggers=[]")
HELD_OUT = ("data.split=test",)
FASTER_RCNN = (
    "heads.detection={name: faster_rcnn, width: 128, box_width: 256, anchor_scale: 4, num_proposals: 300, "
    "num_samples: 64}"
)
FCOS = "heads.detection={name: fcos, width: 128}"
SWIN = "backbone={name: swin, variant: nano, window_size: 4, stem: conv}"  # that of `detector`


class Contestant(NamedTuple):
    """A recipe: its name in the plot, its config with overrides, and whether transformers' DETR is trained instead."""

    label: str
    config: Path
    overrides: tuple[str, ...] = ()
    transformers: bool = False


Contestants = Mapping[str, Contestant]
CONTESTANTS: Contestants = {
    "transformers_detr": Contestant("transformers' DETR", ROOT / "configs/scenes/detr_swin_plain.yaml", HELD_OUT, True),
    "detr_paper": Contestant("DETR as in the paper", ROOT / "configs/scenes/detr_swin_plain.yaml", HELD_OUT),
    "detr_options": Contestant(
        "DETR with options (5d313f0)", ROOT / "configs/scenes/detr_swin_denoising.yaml", HELD_OUT
    ),
    "dino_detr_swin": Contestant("Deformable DETR", ROOT / "configs/scenes/dino_detr_swin.yaml", HELD_OUT),
    "detector": Contestant("detector", ROOT / "configs/detector.yaml", HELD_OUT),
    "rtdetr_swin": Contestant("RT-DETR", ROOT / "configs/scenes/rtdetr_swin.yaml", HELD_OUT),
    "dfine_swin": Contestant("D-FINE", ROOT / "configs/scenes/dfine_swin.yaml", HELD_OUT),
    "faster_rcnn": Contestant("Faster R-CNN", ROOT / "configs/scenes/detr_resnet.yaml", (*HELD_OUT, SWIN, FASTER_RCNN)),
    "fcos": Contestant("FCOS", ROOT / "configs/scenes/detr_resnet.yaml", (*HELD_OUT, SWIN, FCOS)),
}


class RunKey(NamedTuple):
    """A training after the measurement of throughput."""

    name: str
    seed: int
    minutes: float

    @property
    def folder(self) -> str:
        return f"{self.name}-seed{self.seed}-{self.minutes:g}min"


def command(contestant: Contestant, folder: Path, overrides: Sequence[str]) -> list[str]:
    """The command line that trains a contestant."""
    peer = [str(FOLDER / "convergence_peer.py")]
    program = peer if contestant.transformers else ["-m", "densevit", "train"]
    overrides = [*FIXED, *contestant.overrides, *overrides]
    return [sys.executable, *program, str(contestant.config), *overrides, "--run-dir", str(folder)]


def images_of(minutes: float, rate: float) -> int:
    """The budget in images, whole batches. rate: images per yardstick second."""
    return round(minutes * 60 * rate / BATCH_SIZE) * BATCH_SIZE


def missing(results: Results, names: Sequence[str], seeds: int, minutes: Sequence[float]) -> list[RunKey]:
    """The runs that the results do not have, in order of execution: seed by seed, short runs first."""
    done = {RunKey(run["contestant"], run["seed"], run["minutes"]) for run in results["runs"]}
    keys = [RunKey(name, seed, budget) for seed in range(seeds) for budget in sorted(minutes) for name in names]
    return [key for key in keys if key not in done]


def execute(arguments: Sequence[str], log: Path, threads: int) -> None:
    """Runs a command with its output in a file. Raises RuntimeError with the end of the file if the command fails."""
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    with log.open("w") as file:
        code = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        raise RuntimeError(f"{log} ends with exit code {code}:\n{log.read_text()[-2000:]}")


def images_per_second(name: str, contestant: Contestant, out: Path) -> float:
    """Throughput of a short training."""
    folder, seconds = out / "throughput" / name, out / "throughput" / f"{name}.json"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    images = (WARMUP_STEPS + TIMED_STEPS) * BATCH_SIZE
    clock = f"{{name: 'convergence_clock:Clock', file: {json.dumps(str(seconds))}, warmup: {WARMUP_STEPS}}}"
    overrides = [f"trainer.max_images={images}", "trainer.evaluate_every=0.99", "data.val_length=8"]
    overrides.append(f"trainer.callbacks=[{clock}]")
    execute(command(contestant, folder, overrides), folder.with_name(f"{name}.log"), _cores())
    speed: float = BATCH_SIZE / json.loads(seconds.read_text())
    return speed


def measure(results: Results, contestants: Contestants, names: Sequence[str], out: Path, rounds: int) -> None:
    """Adds the rates, in images per yardstick second, of those contestants that have none."""
    new = [name for name in names if name not in results["rates"]]
    if not new:
        return
    speeds: dict[str, list[float]] = {name: [] for name in dict.fromkeys([YARDSTICK, *new])}
    for number in range(rounds):
        for name, values in speeds.items():
            values.append(images_per_second(name, contestants[name], out))
            print(f"round {number + 1} of {rounds}: {name} {values[-1]:.1f} images/s", flush=True)
    for name in new:
        ratios = [a / b for a, b in zip(speeds[name], speeds[YARDSTICK], strict=True)]
        results["rates"][name] = YARDSTICK_SPEED * statistics.median(ratios)
        results["images_per_second"][name] = statistics.median(speeds[name])
    write(results, out)


def train(
    key: RunKey, contestant: Contestant, rate: float, out: Path, threads: int, validations: int
) -> list[list[float]]:
    """Trains a contestant, or resumes an interrupted run. Returns (images, AP, AP50) of each validation."""
    folder = out / "runs" / key.folder
    if (folder / "checkpoints" / "last.ckpt").is_file():
        arguments = [sys.executable, "-m", "densevit", "train", "--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of a run without a checkpoint
        folder.parent.mkdir(exist_ok=True)
        budget = [f"trainer.max_images={images_of(key.minutes, rate)}", f"trainer.evaluate_every={1 / validations}"]
        arguments = command(contestant, folder, [f"seed={key.seed}", *budget])
    execute(arguments, folder.with_name(f"{key.folder}.log"), threads)
    rows = [row for row in MetricsCsv(folder / "metrics.csv").rows() if row.get("detection/AP")]
    return [[int(row["step"]) * BATCH_SIZE, float(row["detection/AP"]), float(row["detection/AP50"])] for row in rows]


def train_all(
    results: Results, contestants: Contestants, keys: Sequence[RunKey], out: Path, parallel: int, validations: int
) -> None:
    """Trains `parallel` runs at a time, and writes each result when its run ends."""
    threads = max(1, _cores() // parallel)
    pool = ThreadPoolExecutor(parallel)
    runs: dict[Future[list[list[float]]], RunKey] = {
        pool.submit(train, key, contestants[key.name], results["rates"][key.name], out, threads, validations): key
        for key in keys
    }
    try:
        for run in as_completed(runs):
            key = runs[run]
            try:
                points = run.result()
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            results["runs"].append({"contestant": key.name, "seed": key.seed, "minutes": key.minutes, "points": points})
            write(results, out)
            print(f"{key.folder}: AP {points[-1][1]:.3f}, AP50 {points[-1][2]:.3f}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C


def read(out: Path) -> Results:
    file = out / "results.json"
    empty: Results = {"rates": {}, "images_per_second": {}, "runs": []}
    return json.loads(file.read_text()) if file.is_file() else empty


def write(results: Results, out: Path) -> None:
    partial = out / "results.partial"
    partial.write_text(json.dumps(results, indent=1))
    partial.replace(out / "results.json")


def report(results: Results, out: Path) -> str:
    """Writes the tables and the plot. Returns the tables."""
    labels = {name: contestant.label for name, contestant in CONTESTANTS.items()}
    text = tables(results, labels, YARDSTICK, CHALLENGER)
    (out / "convergence.md").write_text(text)
    (out / "convergence.svg").write_text(plot(results, labels))
    return text


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(
    contestants: Contestants, report: Callable[[Results, Path], str], description: str, minutes: float, validations: int
) -> None:
    """The command line: measures, trains missing runs, and reports. minutes: the default budget."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results and the runs")
    parser.add_argument("--only", nargs="+", choices=contestants, default=list(contestants), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds; %(default)s")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[minutes], help="budgets in yardstick minutes, one training each"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved measurements of throughput; %(default)s")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at a time, which share the cores")
    parser.add_argument("--report", action="store_true", help="only report OUT/results.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    results = read(args.out)
    keys: list[RunKey] = []
    if not args.report:
        measure(results, contestants, args.only, args.out, args.rounds)
        keys = missing(results, args.only, args.seeds, args.minutes)
        train_all(results, contestants, keys, args.out, args.parallel, validations)
        keys = missing(results, args.only, args.seeds, args.minutes)
    if not results["runs"]:
        raise SystemExit(f"{args.out / 'results.json'} has no finished run; there is nothing to report.")
    print(report(results, args.out))
    if keys:
        raise SystemExit(f"Failed: {', '.join(key.folder for key in keys)}. Their logs are in {args.out / 'runs'}.")


if __name__ == "__main__":
    compare(CONTESTANTS, report, (__doc__ or "").splitlines()[0], minutes=10.0, validations=8)
