"""Part 2: recipes as they are shipped: images per second, memory, the share of time that the GPU waits, scores."""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from densevit.reporting.curves import read_curves
from gpu_parts.results import Case, Setting, need
from gpu_parts.training import fit, peak_gb


def cases(setting: Setting) -> list[Case]:
    every_case: list[Case] = [
        ("detr_swin as shipped", detr_swin),
        ("start/detector on rendered images, 640 pixels", start_detector),
        ("start/detector, no loader processes", partial(start_detector, workers="0")),
        *(
            (f"{name}, 300 steps, {precision}", partial(_short, name, precision))
            for name in ("setr_vit", "dpt_swin", "detr_swin")
            for precision in ("bf16-mixed", "32", "tf32", "16-mixed")
        ),
    ]
    return every_case[:2] if setting.smoke else every_case


def detr_swin(setting: Setting) -> dict[str, Any]:
    """The first command of the README, with as many of its 22,000 images as 60 % of the part's time allow."""
    images = 16
    if not setting.smoke:
        speed = _train(setting, "detr_swin", ["trainer.max_images=null", "trainer.max_steps=150"])["images/s"]
        images = min(22_000, max(2_000, int(0.6 * (setting.end - time.monotonic()) * speed / 1000) * 1000))
    return {"images": images} | _train(setting, "detr_swin", [f"trainer.max_images={images}"])


def start_detector(setting: Setting, workers: str | None = None) -> dict[str, Any]:
    """A folder of JPEG images with a json in COCO's format, without the pretrained weights."""
    need("timm")
    from densevit.cli import main

    folder = setting.folder / "scenes"
    if not folder.exists():
        count, size = ("8", "96") if setting.smoke else ("400", "480x640")
        main(["scenes", "--out", str(folder), "--count", count, "--size", size, "--jpeg"])
    steps, side = (2, 64) if setting.smoke else (200, 640)
    keys = ["data=folder", f"data.root={folder}", "data.batch_size=8", f"data.image_size={side}"]
    keys += ["trainer.max_epochs=null", f"trainer.max_steps={steps}"]
    keys += ["backbone.pretrained=false", *([f"data.num_workers={workers}"] if workers else [])]
    return _train(setting, "start/detector", keys)


def _short(name: str, precision: str, setting: Setting) -> dict[str, Any]:
    keys = ["trainer.precision=32", "trainer.tf32=true"] if precision == "tf32" else [f"trainer.precision={precision}"]
    return _train(setting, name, [*keys, "trainer.max_images=null", "trainer.max_steps=300"])


def _train(setting: Setting, name: str, keys: list[str]) -> dict[str, Any]:
    """Trains, and returns the means of the columns of metrics.csv without its first fifth, the metrics and the time."""
    keys = [*keys, "trainer.evaluations=1", "trainer.log_every=1" if setting.smoke else "trainer.log_every=25"]
    if setting.smoke:
        keys += ["data.batch_size=2", "data.num_workers=0"]
        keys += ["data.image_size=64", "data.val_length=2"] if name != "start/detector" else []
    peak_gb(setting.device, reset=True)
    start = time.monotonic()
    run = fit(setting, name, keys)
    values = {**_speed(run.path), "GPU GB": peak_gb(setting.device), "minutes": (time.monotonic() - start) / 60}
    scores = {k: v for k, v in run.metrics.items() if k.split("/")[-1] in ("AP", "AP50", "mIoU", "AbsRel", "delta1")}
    return values | scores


def _speed(path: Path) -> dict[str, float]:
    columns = {"images/s": "system/images_per_second", "waiting for data": "system/data_wait", "loss": "train/loss"}
    curves = read_curves(path / "metrics.csv")
    values = {name: [value for _, value in curves[column]] for name, column in columns.items()}
    return {name: statistics.fmean(column[len(column) // 5 :]) for name, column in values.items()}
