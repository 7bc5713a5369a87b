"""Each method with two processes, accumulation, EMA, bf16 and activation checkpointing, and resumed after kill -9."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densevit
from densevit.config import Config, from_mapping
from tests.methods import pretraining
from tests.training.process_groups import child, in_two_processes, linux
from tests.training.runs import assert_same_run

pytestmark = [linux, pytest.mark.integration]

STEPS, KILLED = 6, 5
SCENES = {"name": "scenes", "image_size": 64, "val_length": 3}
# Heads without batch norm or dropout, whose results depend on the process.
TRANSFORMER = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16, "dropout": 0.0}
HEADS = {
    "detection": {"name": "detr", "num_queries": 6, "transformer": TRANSFORMER},
    "surfaces": pretraining.SETR,
    "depth": pretraining.DEPTH,
}
FEW_LABELS = {
    "labelled": {**SCENES, "train_length": 3, "per_batch": 1},
    "unlabelled": {**SCENES, "train_length": 12, "seed": 1, "per_batch": 1, "provides": []},
}
UNLABELLED = {"heads": {}, "data": {**SCENES, "train_length": 12}}
# The sections of each one's config.
METHODS: dict[str, dict[str, Any]] = {
    "mean_teacher": {
        "method": {"name": "mean_teacher", "burn_in": 2, "score_threshold": 0.05, "pixel_threshold": 0.084},
        "heads": HEADS,
        "data": {"name": "mix", "sets": FEW_LABELS},
    },
    "dino": {
        "method": {"name": "dino", "local_crops": 1, "global_size": 64, "local_size": 32, "prototypes": 16},
        **UNLABELLED,
    },
    "mae": {
        "method": {"name": "mae", "width": 16, "depth": 1, "num_heads": 2},
        "backbone": {
            **{"name": "vit", "variant": "nano", "drop_path": 0.0, "image_size": 64},
            "gradient_checkpointing": True,
        },
        **UNLABELLED,
    },
    # Batch norm over four similar images amplifies rounding errors, also in the weights of the next step.
    "moco_v3": {
        "method": {"name": "moco_v3", "image_size": 64, "hidden": 16, "width": 8, "temperature": 1.0},
        "optim": {"name": "sgd", "lr": 1e-4, "schedule": "constant", "warmup_steps": 2},
        **UNLABELLED,
    },
}  # fmt: skip


def each(*in_brief: str) -> list[Any]:
    """All methods, of which these are not slow."""
    return [method if method in in_brief else pytest.param(method, marks=pytest.mark.slow) for method in METHODS]


def config(method: str, batch_size: int = 4, gradient_checkpointing: bool = False, **trainer: Any) -> Config:
    sections = dict(METHODS[method])
    optim = {"name": "sgd", "lr": 1e-3, "schedule": "constant", "warmup_steps": 2}
    fixed = {"max_steps": STEPS, "accelerator": "cpu", "devices": 1, "log_every": 1, "evaluations": 1}
    backbone = {
        **sections.pop("backbone", pretraining.BACKBONES["swin"]),
        "gradient_checkpointing": gradient_checkpointing,
    }
    data = {"image_size": 64, "batch_size": batch_size, "num_workers": 0} | sections.pop("data")
    trainer = {"precision": "32", **fixed, **trainer}
    return from_mapping({"optim": optim, **sections, "backbone": backbone, "data": data, "trainer": trainer})


def losses(run: Path) -> np.ndarray:
    """The values of all loss terms in each step, (steps, terms)."""
    from densevit.training.run.metrics_csv import MetricsCsv

    rows = [row for row in MetricsCsv(run / "metrics.csv").rows() if row.get("train/loss")]
    skipped = ("train/lr", "train/gradient_norm")
    names = sorted(name for name in rows[0] if name.startswith("train/") and not name.startswith(skipped))
    return np.array([[float(row[name]) for name in names] for row in rows])


@pytest.mark.parametrize("method", each("dino", "moco_v3"))
def test_two_processes_match_one(method: str, tmp_path: Path) -> None:
    """Losses of every step and the metrics; the two processes also checkpoint activations."""
    made = config(method, 2, True, devices=2, strategy="ddp")
    in_two_processes(lambda rank: densevit.fit(made, run_dir=tmp_path / "together"), tmp_path)
    run = densevit.fit(config(method), run_dir=tmp_path / "alone")
    alone, together = losses(tmp_path / "alone"), losses(tmp_path / "together")
    assert len(alone) == STEPS and alone[-1].all()
    np.testing.assert_allclose(together, alone, rtol=1e-3 if method == "moco_v3" else 1e-4, atol=1e-5)
    metrics = densevit.training.run.fit.Run(tmp_path / "together").metrics
    assert metrics == pytest.approx(run.metrics, rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("method", each("mean_teacher"))
def test_killed_run_continues_exactly(method: str, tmp_path: Path) -> None:
    from tests.training.own_callbacks import Quit

    options = {"precision": "bf16-mixed", "accumulate": 2, "ema": 0.5, "checkpoint_every": 2}
    made = config(method, 2, True, **options)
    for name, callbacks in (("whole", []), ("killed", [Quit(KILLED)])):
        process = child(
            lambda name=name, callbacks=callbacks: densevit.fit(made, run_dir=tmp_path / name, callbacks=callbacks)
        )
        process.join(300)
        assert process.exitcode == (9 if callbacks else 0)
    process = child(lambda: densevit.fit(resume=tmp_path / "killed"))
    process.join(300)
    assert process.exitcode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
