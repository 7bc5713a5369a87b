"""Several heads on one backbone, end to end: mixed data, frozen, added and dropped heads, and the docs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from tests.training.runs import checkpoint, train

pytestmark = pytest.mark.integration

DETECTION = {
    "name": "box_query_detr", "num_queries": 8, "classification": "mal",
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32},
    "extensions": {"stride": 8, "fusion_blocks": 1, "denoising": 1, "dense_loss": 1.0},
}  # fmt: skip
SURFACES = {
    "name": "setr", "decoder": "mla", "width": 16, "branch_width": 8, "auxiliary": [], "norm": "batch",
    "class_weights": "balanced",
}  # fmt: skip
DEPTH = {"name": "dpt", "output": "bins", "max_depth": 60.0, "width": 8, "norm": "batch"}
SCENES = {"name": "scenes", "train_length": 4, "val_length": 2}
BASE: dict[str, Any] = {
    "backbone": {"name": "swin", "variant": "nano", "window_size": 4, "stem": "conv"},
    "data": {**SCENES, "image_size": 64, "batch_size": 2, "num_workers": 0},
    "optim": {"lr": 1e-3},
    "trainer": {"max_epochs": 1, "precision": "32", "accelerator": "cpu", "log_every": 1},
}
SETS = {
    "objects": {**SCENES, "provides": ["boxes", "labels"], "share": 2},
    "rooms": {**SCENES, "seed": 1, "provides": ["semantic"], "share": 1},
    "far": {**SCENES, "seed": 2, "provides": ["depth"], "share": 1},
}


# ---- data sets of one task each ----


def test_all_tasks_of_a_mix_are_trained_evaluated_and_reported(trained: Callable[..., Path]) -> None:
    """On three data sets with labels of one task each, with one learned loss weight."""
    heads = {
        "boxes": DETECTION,
        "surfaces": {**SURFACES, "loss_weight": "learned"},
        "depth": {**DEPTH, "loss_weight": 0.5},
    }
    data = {"name": "mix", "sets": SETS, "image_size": 64, "batch_size": 2, "num_workers": 0}
    mixed = trained(yaml.safe_dump({**BASE, "heads": heads, "data": data}, sort_keys=False))
    metrics = json.loads((mixed / "metrics.json").read_text())
    for name in ("boxes/AP", "surfaces/mIoU", "depth/AbsRel"):
        assert isinstance(metrics[name], float), name
    header, *_ = (mixed / "metrics.csv").read_text().splitlines()
    terms = {"boxes/l1", "surfaces/cross_entropy", "surfaces/log_variance", "depth/silog"}
    assert {f"train/{term}" for term in terms} <= {*header.split(",")}
    page = (mixed / "report.html").read_text()
    assert "detr + setr + dpt on swin, data: mix" in page and "Confusion: surfaces" in page
    for head in ("boxes", "surfaces", "depth"):
        assert len(list((mixed / "predictions").glob(f"{head}-*.jpg"))) == 6  # of two images of each set
        assert len(re.findall(f"<figcaption>{head}-", page)) == 6


# ---- frozen, added and dropped ----


@pytest.mark.usefixtures("no_drawings")
def test_adding_a_head_keeps_a_frozen_detector_bit_identical(trained: Callable[..., Path], tmp_path: Path) -> None:
    """Its average of the weights, too. The first run's weight for boxes was learned, and this one has none."""
    heads = {"boxes": {**DETECTION, "loss_weight": "learned"}, "surfaces": SURFACES}
    first = trained(yaml.safe_dump({**BASE, "heads": heads}, sort_keys=False))
    heads = {"boxes": {**DETECTION, "freeze": True}, "depth": DEPTH}
    sections = {
        **BASE, "weights": str(first), "backbone": {**BASE["backbone"], "freeze": True}, "heads": heads,
        "optim": {"lr": 1e-2, "weight_decay": 0.5}, "trainer": {**BASE["trainer"], "ema": 0.9},
    }  # fmt: skip
    run = train(configs.from_mapping(sections), tmp_path / "run")
    before, after = load_file(first / "model.safetensors"), load_file(run / "model.safetensors")
    frozen = [key for key in after if key.startswith(("backbone.", "heads.boxes."))]
    assert {key for key in before if key.startswith(("backbone.", "heads.boxes."))} == set(frozen)
    assert any("running_var" in key and key.startswith("backbone.") for key in frozen)
    assert any("running_var" in key and key.startswith("heads.boxes.") for key in frozen)
    for key in frozen:
        assert torch.equal(before[key], after[key]), key
    assert all(key.startswith(("backbone.", "heads.boxes.", "heads.depth.")) for key in after)
    count = sum(len(group["params"]) for group in checkpoint(run)["optimizer_states"][0]["param_groups"])
    assert count == sum(1 for _ in densevit.load(run).heads["depth"].parameters())

    old, new = (json.loads((folder / "metrics.json").read_text()) for folder in (first, run))
    for name, value in old.items():
        assert not name.startswith("boxes/") or new[name] == value, name
