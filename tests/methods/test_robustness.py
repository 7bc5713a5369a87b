"""Each method with two processes, accumulation, EMA, bf16 and activation checkpointing, and resumed after kill -9."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.config import Config, from_mapping

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="gloo and forks"), pytest.mark.integration]

STEPS, KILLED = 6, 5
SCENES = {"name": "scenes", "image_size": 64, "val_length": 3}
# Heads without batch norm or dropout, whose results depend on the process.
HEADS = {
    "detection": {
        "name": "detr", "num_queries": 6,
        "transformer": {
            "width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16, "dropout": 0.0,
        },
    },
    "surfaces": {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": [], "norm": "group"},
    "depth": {"name": "dpt", "output": "sigmoid", "max_depth": 60, "width": 16, "norm": "none"},
}  # fmt: skip
FEW_LABELS = {
    "labelled": {**SCENES, "train_length": 3, "per_batch": 1},
    "unlabelled": {**SCENES, "train_length": 12, "seed": 1, "per_batch": 1, "provides": []},
}
CLASSIFIER = {"name": "classifier", "label_smoothing": 0.0}
IMAGES = {"name": "image_folder", "root": "FOLDER/images", "image_size": 64}
DISTILLING = {"backbone": {"name": "resnet", "depth": 18}, "heads": HEADS, "data": SCENES, "trainer": {"max_steps": 1}}
UNLABELLED = {"heads": {}, "data": {**SCENES, "train_length": 12}}
# The sections of each one's config, and as `teacher` those of FOLDER/teacher.safetensors.
METHODS: dict[str, dict[str, Any]] = {
    "mean_teacher": {
        "method": {"name": "mean_teacher", "burn_in": 2, "score_threshold": 0.05, "pixel_threshold": 0.084},
        "heads": HEADS,
        "data": {"name": "mix", "sets": FEW_LABELS},
    },
    "feature_distillation": {
        "teacher": DISTILLING,
        "method": {"name": "feature_distillation", "teacher": "FOLDER/teacher.safetensors", "levels": 2},
        "heads": {"depth": HEADS["depth"]},
        "data": {**SCENES, "train_length": 12},
    },
    "output_distillation": {
        "teacher": DISTILLING,
        "method": {
            "name": "output_distillation", "teacher": "FOLDER/teacher.safetensors", "score_threshold": 0.01,
        },
        "heads": HEADS,
        "data": {"name": "mix", "sets": FEW_LABELS},
    },
    "deit": {
        "teacher": {**DISTILLING, "heads": {"classification": CLASSIFIER}, "data": IMAGES},
        "backbone": {"name": "vit", "variant": "nano", "distillation_token": True, "drop_path": 0.0},
        "method": {"name": "deit", "teacher": "FOLDER/teacher.safetensors", "distillation": "soft"},
        "heads": {"classification": {**CLASSIFIER, "tokens": 2}},
        "data": IMAGES,
    },
    "dino": {
        "method": {"name": "dino", "local_crops": 1, "global_size": 64, "local_size": 32, "prototypes": 16},
        **UNLABELLED,
    },
    "mae": {
        "method": {"name": "mae", "width": 16, "depth": 1, "num_heads": 2},
        "backbone": {"name": "vit", "variant": "nano", "drop_path": 0.0, "image_size": 64, "checkpointing": True},
        **UNLABELLED,
    },
    # Batch norm over four similar images amplifies rounding errors, also in the weights of the next step.
    "moco_v3": {
        "method": {"name": "moco_v3", "image_size": 64, "hidden": 16, "width": 8, "temperature": 1.0},
        "optim": {"name": "sgd", "lr": 1e-4, "schedule": "constant", "warmup_steps": 2},
        **UNLABELLED,
    },
    "simmim": {"method": {"name": "simmim"}, **UNLABELLED},
}  # fmt: skip
IN_BRIEF = ("mean_teacher", "dino")
EACH = [method if method in IN_BRIEF else pytest.param(method, marks=pytest.mark.slow) for method in METHODS]


def prepare(method: str, folder: Path) -> None:
    """Writes the images and the teacher, with random weights, that the sections of a method name."""
    if (sections := METHODS[method].get("teacher")) is None:
        return
    for i in range(16):
        image = folder / "images" / "train" / "abc"[i % 3] / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)).save(image)
    shutil.copytree(folder / "images" / "train", folder / "images" / "val")
    made = from_mapping(in_folder(sections, folder))
    densevit.save(densevit.build_model(made, densevit.build_data(made).train).eval(), folder / "teacher.safetensors")


def in_folder(sections: dict[str, Any], folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(sections).replace("FOLDER", str(folder)))
    return values


def config(method: str, folder: Path, batch_size: int = 4, checkpointing: bool = False, **trainer: Any) -> Config:
    sections = in_folder({key: value for key, value in METHODS[method].items() if key != "teacher"}, folder)
    values: dict[str, Any] = {
        "backbone": {
            "name": "swin", "variant": "nano", "window_size": 4, "drop_path": 0.0,
        },
        "optim": {"name": "sgd", "lr": 1e-3, "schedule": "constant", "warmup_steps": 2},
    }  # fmt: skip
    fixed = {"max_steps": STEPS, "accelerator": "cpu", "devices": 1, "log_every": 1, "evaluate_every": 0.99}
    sections["backbone"] = {**sections.get("backbone", values["backbone"]), "checkpointing": checkpointing}
    data = {"image_size": 64, "batch_size": batch_size, "num_workers": 0} | sections["data"]
    return from_mapping({**values, **sections, "data": data, "trainer": {"precision": "32", **fixed, **trainer}})


def losses(run: Path) -> np.ndarray:
    """The values of all loss terms in each step, (steps, terms)."""
    from densevit.training.run.metrics_csv import MetricsCsv

    rows = [row for row in MetricsCsv(run / "metrics.csv").rows() if row.get("train/loss")]
    skipped = ("train/lr", "train/gradient_norm")
    names = sorted(name for name in rows[0] if name.startswith("train/") and not name.startswith(skipped))
    return np.array([[float(row[name]) for name in names] for row in rows])


def run_process(rank: int, folder: Path) -> None:
    """One of two processes, as torchrun starts it. With activation checkpointing."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text(),
    }  # fmt: skip
    torch.set_num_threads(1)
    method = (folder / "method").read_text()
    densevit.fit(config(method, folder, 2, True, devices=2, strategy="ddp"), run_dir=folder / "together")


@pytest.mark.parametrize("method", EACH)
def test_two_processes_match_one(
    method: str, tmp_path: Path, run_processes: Callable[..., None], free_port: int
) -> None:
    """Losses of every step and the metrics; the two processes also checkpoint activations."""
    (tmp_path / "port").write_text(str(free_port))
    (tmp_path / "method").write_text(method)
    prepare(method, tmp_path)
    run_processes(__file__, 2, tmp_path)
    run = densevit.fit(config(method, tmp_path), run_dir=tmp_path / "alone")
    alone, together = losses(tmp_path / "alone"), losses(tmp_path / "together")
    assert len(alone) == STEPS and alone[-1].all()
    np.testing.assert_allclose(together, alone, rtol=1e-3 if method == "moco_v3" else 1e-4, atol=1e-5)
    metrics = densevit.training.run.fit.Run(tmp_path / "together").metrics
    assert metrics == pytest.approx(run.metrics, rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("method", EACH)
def test_killed_run_continues_exactly(method: str, tmp_path: Path) -> None:
    from tests.training.own_callbacks import Kill
    from tests.training.run.test_signals import child

    options = {"precision": "bf16-mixed", "accumulate": 2, "ema": 0.5, "checkpoint_every": 2}
    prepare(method, tmp_path)
    made = config(method, tmp_path, 2, True, **options)
    for name, callbacks in (("whole", []), ("killed", [Kill(KILLED)])):
        process = child(
            lambda name=name, callbacks=callbacks: densevit.fit(made, run_dir=tmp_path / name, callbacks=callbacks)
        )
        process.join(300)
        assert process.exitcode == (-signal.SIGKILL if callbacks else 0)
    process = child(lambda: densevit.fit(resume=tmp_path / "killed"))
    process.join(300)
    assert process.exitcode == 0
    whole, killed = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "killed")
    )
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(x, killed[key][name]) for name, x in whole[key].items())
    assert np.array_equal(losses(tmp_path / "whole"), losses(tmp_path / "killed"))
    files = [(tmp_path / run / "metrics.json").read_text() for run in ("whole", "killed")]
    assert files[0] == files[1]


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
