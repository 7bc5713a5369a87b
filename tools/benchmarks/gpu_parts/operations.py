"""Part 5: operations compared with other implementations by the other benchmarks, and loading with all cores."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import densevit
from densevit import config as configs
from gpu_parts.results import Case, Setting


def cases(setting: Setting) -> list[Case]:
    return [
        (
            "matching",
            partial(_script, "matching.py", ["--rounds", "10"], ["--rounds", "1", "--batch", "2", "--queries", "10"]),
        ),
        (
            "deformable attention against grid_sample",
            partial(_script, "deformable_attention.py", ["--device", "cuda"], None),
        ),
        ("loading", loading),
        ("COCO evaluation", partial(_script, "evaluation.py", [], None)),
        ("mIoU", partial(_script, "confusion.py", [], None)),
    ]


def _script(name: str, options: list[str], smoke: list[str] | None, setting: Setting) -> dict[str, Any]:
    chosen = smoke if setting.smoke else options
    if chosen is None:
        return {"output": "not run with --smoke"}
    command = [sys.executable, str(Path(__file__).parents[1] / name), *chosen]
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
    seconds = max(10.0, setting.end - time.monotonic())
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    if ended.returncode:
        raise RuntimeError((ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1])
    return {"output": ended.stdout}


def loading(setting: Setting) -> dict[str, Any]:
    """Images per second of the loader of COCO's recipe for DETR (480 to 800 pixels) on JPEG images of 480 x 640."""
    from densevit.cli import main

    folder = setting.folder / "scenes"
    count, size = ("4", "96") if setting.smoke else ("600", "480x640")
    main(["scenes", "--out", str(folder), "--count", count, "--size", size, "--jpeg", "--split", "train"])
    values: dict[str, Any] = {"CPU cores": len(os.sched_getaffinity(0))}
    for workers in (0,) if setting.smoke else (1, 4, 8, 16):
        batch = 2 if setting.smoke else 8
        keys = [f"data.root={folder}", f"data.num_workers={workers}", f"data.batch_size={batch}"]
        data = densevit.build_data(configs.load("coco/detr_r50", ["data=folder", "data.transforms=detr", *keys]))
        batches = iter(data.train_loader())
        next(batches)  # starts the processes
        start, number = time.perf_counter(), 0
        for loaded in batches:
            number += len(loaded["targets"])
        values[f"images/s, {workers} processes"] = number / (time.perf_counter() - start)
    return values
