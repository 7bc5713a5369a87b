"""A resumed run needs its folder and its data only: the weights that it names are kept in the folder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit import registry
from densevit.config.key_types import parts
from densevit.config.values import SOURCE
from tests.data.coco_folder import noise
from tests.heads.cases import DFINE
from tests.methods.pretraining import BACKBONES, SETR
from tests.training.runs import assert_same_run, interrupted_after, resume, train, without_report

ONE_STAGE = {"name": "one_stage", "width": 16, "fusion_blocks": 0}
CLASSIFIER = {"name": "classifier", "label_smoothing": 0.0}
SCENES = {"name": "scenes", "image_size": 64, "train_length": 4, "val_length": 2, "batch_size": 2}


def cases(root: Path) -> dict[str, dict[str, Any]]:
    """Runs that read weights, `old` or `teacher.safetensors`: sections by method, or by what reads them."""
    teacher, swin = str(root / "teacher.safetensors"), BACKBONES["swin"]
    new = {
        "heads": {"detection": ONE_STAGE},
        "data": {**SCENES, "masks": False, "labelled_classes": "new"},
        "weights": str(root / "old"),
    }
    student = {"name": "vit", "variant": "nano", "distillation_token": True, "drop_path": 0.0}
    images = {"name": "image_folder", "root": str(root / "images"), "image_size": 64, "batch_size": 2}
    return {
        "self_training": {**new, "method": "self_training"},
        "new classes": new,
        "no checkpoint": {"heads": {"surfaces": SETR}, "backbone": {**swin, "weights": teacher}},
        "output_distillation": {
            "heads": {"surfaces": SETR}, "method": {"name": "output_distillation", "teacher": teacher},
        },
        "feature_distillation": {"method": {"name": "feature_distillation", "teacher": teacher}},
        "a section": {"method": {"name": "feature_distillation", "teacher": {**swin, "weights": teacher}}},
        "semantic_injection": {
            "heads": {"detection": {"name": "dfine", **DFINE, "num_points": (2, 1), "min_stride": 16}},
            "method": {"name": "semantic_injection", "teacher": teacher},
        },
        "deit": {
            "backbone": student, "data": images, "heads": {"classification": {**CLASSIFIER, "tokens": 2}},
            "method": {"name": "deit", "teacher": str(root / "old")},
        },
    }  # fmt: skip


def weights(root: Path) -> None:
    """Models with random weights: with objects and image classes in `old`, and with label maps in a file."""
    torch.manual_seed(0)
    classes = densevit.create_dataset("scenes", image_size=64, train_length=1).classes
    (root / "old").mkdir()
    heads = {"detection": ONE_STAGE, "classification": CLASSIFIER}
    names = {"detection": ["zebra", classes["detection"][1].name], "classification": ["cat", "dog"]}
    model = densevit.create_model(BACKBONES["swin"], heads, names)
    torch.nn.init.normal_(model.heads["classification"].classifier.weight)
    model.score_thresholds = {"detection": 0.0}
    model.save(root / "old/model.safetensors")
    maps = densevit.create_model(BACKBONES["swin"], {"surfaces": SETR}, {"surfaces": classes["segmentation"]})
    maps.save(root / "teacher.safetensors")


def test_all_methods_that_name_weights_have_a_case(tmp_path: Path) -> None:
    annotations = {name: registry.option_types("methods", name).values() for name in registry.find("methods")}
    names = {name for name, types in annotations.items() if any(SOURCE in parts(x, inside=True) for x in types)}
    assert {"deit", "self_training"} < names < {*cases(tmp_path)}


@pytest.mark.integration
@pytest.mark.parametrize("case", cases(Path()))
def test_a_run_is_resumed_to_the_last_bit_without_the_weights_that_it_named(case: str, tmp_path: Path) -> None:
    weights(tmp_path)
    for n in range(8):
        file = tmp_path / "images" / ("train" if n < 4 else "val") / ("cat", "dog")[n % 2] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(n, 64, 64)).save(file)
    trainer = {"max_steps": 3, "precision": "32", "accelerator": "cpu", "log_every": 1, "evaluations": 1}
    values = {"backbone": BACKBONES["swin"], "heads": {}, "data": SCENES, "trainer": trainer, **cases(tmp_path)[case]}
    config = configs.from_mapping(values)
    with without_report():
        train(config, tmp_path / "whole")
        with interrupted_after(1):
            train(config, tmp_path / "stopped")
        shutil.rmtree(tmp_path / "old")
        (tmp_path / "teacher.safetensors").unlink()
        if case == "no checkpoint":
            shutil.rmtree(tmp_path / "stopped/checkpoints")
            (tmp_path / "stopped/model.safetensors").unlink()
        resume((tmp_path / "stopped").rename(tmp_path / "moved"))
    assert_same_run(tmp_path / "whole", tmp_path / "moved")
