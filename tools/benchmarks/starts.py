"""Compares recipes of configs/start from ImageNet weights and from random weights, with equally many images.

    python -m tools.benchmarks.starts OUT --bccd ~/bccd --camvid ~/camvid --depth ~/middlebury [--only detector depth]

EfficientNet-Lite0 on BCCD, CamVid, depth maps of Middlebury Stereo, rendered scenes (instances, panoptic) and crops of
their objects (classifier), seed 0, one run after the other. Runs are in OUT/runs: finished ones are not repeated,
interrupted ones are resumed. The scores of finished runs are written to docs/results.json, where the other fields of an
entry stay as they are; `tools/check --write` writes them into pages and configs. Without the folder of a data set its
recipe is left out; with --report nothing is trained.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.run_output import FINISHED
from tools.conventions import results
from tools.conventions.tree import Tree

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = "efficientnet_lite0"
WEIGHTS = {"lite0": (), "random": ("backbone.weights=null", "backbone.freeze=0", "optim.backbone_lr=1e-3")}
SCENES = (
    "data={{name: scenes, image_size: 160, batch_size: 8, transforms: default, train_length: 400, semantic: false, {}}}"
)
# Of metrics.json, the first decides which weights are better.
METRICS = ("AP", "AP50", "PQ", "mask_AP", "mask_AP50", "mIoU", "aAcc", "AbsRel", "delta_1.1", "top1")


class Start(NamedTuple):
    """A training. data: a key of the section `data` of docs/results.json. folder: an option of this tool or `crops`."""

    data: str
    folder: str | None
    overrides: tuple[str, ...]
    passes: int
    evaluations: int = 4


STARTS = {
    "detector": Start("BCCD", "bccd", ("data=folder", "data.vertical_flip=true", "backbone.freeze=6"), 20, 2),
    "semantic": Start("CamVid", "camvid", ("data=label_maps", "data.preset=camvid"), 5),
    "depth": Start(
        "Middlebury",
        "depth",
        (
            *("data=depth", "data.images={split}/*.jpg", "data.labels={split}/*.png", "data.scale=0.001"),
            *("heads.depth.max_depth=3.5", "heads.depth.min_depth=1.0", "heads.depth.evaluation.deltas=[1.1]"),
        ),
        25,
    ),
    "instances": Start("400 rendered scenes", None, (SCENES.format("depth: false, masks: true"),), 5),
    "panoptic": Start("400 rendered scenes", None, (SCENES.format("depth: false, panoptic: true"),), 4, 2),
    "classifier": Start("crops of rendered scenes", "crops", ("data.image_size=96",), 4, 2),
}


def crops(folder: Path) -> Path:
    """Class folders of square crops of 96 pixels around the objects of rendered scenes, as `densevit scenes` writes."""
    made = folder / "crops"
    if made.is_dir():
        return made
    scenes = folder / "scenes"
    if not scenes.is_dir():
        execute("scenes", "--out", str(scenes), "--count", "300", "--size", "160", "--seed", "7")
    for split in ("train", "val"):
        content = json.loads((scenes / "annotations" / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            is_small = min(width, height) < 24 or annotation["area"] < 0.4 * width * height  # or mostly occluded
            if annotation.get("iscrowd") or is_small:
                continue
            image = Image.open(scenes / split / "images" / files[annotation["image_id"]]).convert("RGB")
            half, center_x, center_y = 0.6 * max(width, height), x + width / 2, y + height / 2
            corners = max(0, center_x - half), max(0, center_y - half)
            box = *corners, min(image.width, center_x + half), min(image.height, center_y + half)
            file = folder / "crops.part" / split / names[annotation["category_id"]] / f"{annotation['id']}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.crop(tuple(map(round, box))).resize((96, 96), Image.Resampling.BICUBIC).save(file)
    return (folder / "crops.part").rename(made)


def execute(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "densevit", *arguments], check=True)


def overrides(name: str, weights: str, root: Path | None) -> list[str]:
    start = STARTS[name]
    keys = [f"backbone={BACKBONE}", *start.overrides, *WEIGHTS[weights], "seed=0"]
    keys += [f"data.root={root}"] if root else []
    return [*keys, f"trainer.max_epochs={start.passes}", f"trainer.evaluations={start.evaluations}"]


def train(run: Path, name: str, arguments: Sequence[str]) -> None:
    if all((run / file).is_file() for file in FINISHED):
        return
    if (run / "checkpoints" / "last.ckpt").is_file():
        execute("train", "--resume", str(run))
    else:
        execute("train", f"start/{name}", *arguments, "--run-dir", str(run))


def entries(name: str, weights: str, run: Path) -> dict[str, dict[str, Any]]:
    """The entry of a finished run for docs/results.json, by its name."""
    start = STARTS[name]
    metrics = json.loads((run / "metrics.json").read_text())
    columns = [(short, key) for short in METRICS for key in metrics if key.rpartition("/")[2] == short]
    scores = {key: [round(metrics[key], 6)] for _, key in columns if math.isfinite(metrics[key])}
    steps = max(int(row["step"]) for row in MetricsCsv(run / "metrics.csv").rows() if row.get(columns[0][1]))
    config = yaml.safe_load((run / "config.yaml").read_text())
    key, twin = f"start/{name}, {start.passes} passes", f"start/{name}, {start.passes} passes, random weights"
    is_random = weights == "random"
    entry = {
        "group": "starts short",
        "recipe": f"start/{name}",
        **({} if is_random else {"twin": twin}),
        "overrides": overrides(name, weights, None),
        "weights": "random" if is_random else "ImageNet",
        "data": start.data,
        "seeds": [0],
        "scores": scores,
        "images": steps * config["data"]["batch_size"],
        "passes": config["trainer"]["max_epochs"],
    }
    return {twin if is_random else key: entry}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for option in ("bccd", "camvid", "depth"):
        parser.add_argument(f"--{option}", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--report", action="store_true", help="only write the scores of finished runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        folder = STARTS[name].folder
        for weights in WEIGHTS:
            run = args.out.resolve() / "runs" / f"{name}_{weights}"
            if not args.report:
                root = crops(args.out) if folder == "crops" else getattr(args, folder) if folder else None
                if folder and root is None:
                    print(f"start/{name}: --{folder} is not given")
                    continue
                train(run, name, overrides(name, weights, root and root.expanduser().resolve()))
            if all((run / file).is_file() for file in FINISHED):
                recorded = results.load(Tree(ROOT))
                for key, entry in entries(name, weights, run).items():
                    recorded["trainings"][key] = {**recorded["trainings"].get(key, {}), **entry}
                (ROOT / results.FILE).write_text(results.dumped(recorded), encoding="utf-8")
                print(f"{results.FILE} has {run.name}")


if __name__ == "__main__":
    main()
