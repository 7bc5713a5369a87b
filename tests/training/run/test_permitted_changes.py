"""Every change of the config that resuming permits, alone or with others: the run trains on for two validations."""

from collections.abc import Callable
from pathlib import Path

import pytest

from densevit.config import Config
from densevit.evaluation import metrics_file
from densevit.evaluation.miou import SemanticSegmentation
from tests.training.runs import SEGMENTATION, checkpoint, resume, rows


class Accuracy(SemanticSegmentation):
    main = "aAcc"


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_drawings")]

BASE = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.evaluate_every=0.5", "trainer.monitor=surfaces/aAcc"]
SELECTION = {
    "trainer.monitor": "surfaces/mIoU",
    "heads.surfaces.evaluation.boundary": "true",
    "heads.surfaces.evaluation.name": f"{__name__}:Accuracy",
    "heads.surfaces.evaluation": "null",
}  # fmt: skip
CHANGES = {
    "data": {
        "batch_size": "4", "num_workers": "1", "image_size": "64", "display": None, "transforms": "resize",
        "vertical_flip": "true", "mixup": None, "cutmix": None, "copy_paste": None, "mosaic": None,
        "multi_scale": "[32, 64]", "repeat_factor": None, "group_by_aspect": "true", "on_error": "skip",
        "final_phase": "{start: 0.6, vertical_flip: true}", "val_length": "2", "train_length": "6", "split": None,
        "channels": None, "range": None, "nodata": None,
    },
    "inference": {"window": "32", "stride": None, "average": "probabilities", "flip": "true", "scales": "[0.5, 1.0]",
                  "batch_size": "1"},
    "optim": {
        "lr": "1e-4", "lr_per_256": None, "weight_decay": "0.1", "final_weight_decay": "0.4", "schedule": "constant",
        "warmup": "0.5", "warmup_steps": "3", "drop_at": "0.5", "power": "1.0", "min_lr_ratio": "0.1",
        "betas": "[0.5, 0.6]",
    },
    "trainer": {
        "max_steps": None, "max_images": None, "max_epochs": None, "accelerator": None, "devices": None,
        "num_nodes": None, "strategy": None, "tf32": "true", "sync_batchnorm": None, "compile": None,
        "precision": "bf16-true", "clip_grad_norm": "0.1", "accumulate": "2", "evaluate_every": None,
        "checkpoint_every": "1", "replace_layers": "false", "monitor": "surfaces/mIoU", "patience": "5", "ema": "0.9",
        "ema_warmup": None, "log_every": "1", "callbacks": None, "loggers": "[]", "detect_anomaly": "true",
        "stall_after": "null", "keep_checkpoints": "1", "channels_last": "true",
    },
}  # fmt: skip
"""A value for each key; None: not with this data and hardware, or tested elsewhere."""
WALK = {f"{section}.{key}": value for section, keys in CHANGES.items() for key, value in keys.items() if value}
WALK |= SELECTION | {"heads.surfaces.weight": "0.5", "heads.surfaces.inference": "{flip: true}"}
ALONE = (*SELECTION, "trainer.accumulate", "data.final_phase")
APART = (  # keys that exclude or hide each other are in different groups
    ("data.multi_scale", "data.transforms", "optim.warmup_steps", "trainer.channels_last", "inference.scales"),
    ("data.image_size", "optim.warmup", "optim.power", "trainer.ema", "trainer.precision", "inference.flip"),
)
REST = [key for key in WALK if key not in (*ALONE, *APART[0], *APART[1])]
GROUPS = [*((key,) for key in ALONE), *APART, *(tuple(k for k in REST if k.startswith(part)) for part in CHANGES)]
GROUPS += [tuple(key for key in REST if key.startswith("heads"))]


def test_the_walk_has_every_key() -> None:
    from densevit.training.run.resuming import _CHANGEABLE, _FIXED, _can_change  # late: it imports Lightning

    assert {pattern.split(".")[0] for pattern in _CHANGEABLE} == {*CHANGES, "heads"}
    for name, changes in CHANGES.items():
        keys = Config.model_fields[name].annotation.model_fields  # type: ignore[union-attr]
        assert {key for key in keys if not any(f"{name}.{key}" in pattern for pattern in _FIXED)} <= changes.keys()
    assert all(_can_change(key, None, value) for key, value in WALK.items())
    assert sorted(key for group in GROUPS for key in group) == sorted(WALK)


@pytest.mark.parametrize("keys", GROUPS, ids=", ".join)
def test_a_changed_run_trains_on_for_two_validations(keys, copied_run: Callable[..., Path], capsys) -> None:
    run = copied_run(SEGMENTATION, BASE)
    assert checkpoint(run)["callbacks"]["BestModel"]["best"].keys() == {"surfaces/aAcc"}
    changed = ["trainer.monitor=null"] if keys[0].startswith("heads.surfaces.evaluation") else []
    changed += [f"{key}={WALK[key]}" for key in keys]
    resume(run, ["trainer.max_steps=4", "trainer.evaluate_every=0.25", *changed])
    printed, validations = capsys.readouterr().out, [row for row in rows(run) if not row.get("train/loss")]
    assert len(validations) == 4, printed
    restarted = "Other metrics selected the best epoch so far" in printed
    assert restarted == (keys[0] in SELECTION), printed
    best = checkpoint(run)["callbacks"]["BestModel"]
    [(monitored, value)] = best["best"].items()
    since = validations[2:] if restarted else validations
    larger = min if monitored.endswith("loss") else max
    assert value == pytest.approx(larger(float(row[monitored]) for row in since), abs=1e-6)
    assert metrics_file.read(run / "metrics.json")[monitored] == value
