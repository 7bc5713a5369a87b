"""densevit/training/run/evaluation.py: the command line's evaluate in Python."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError, DataError
from densevit.model.training_record import TrainingRecord
from densevit_scenes.dataset import Scenes
from tests.small_models import NAIVE
from tests.training.runs import assert_same, plain


def test_evaluate_takes_a_run_its_folder_or_its_model_and_agrees_with_the_command(run: Any, tmp_path: Path) -> None:
    expected = plain(run.metrics)
    model = run.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for one in (str(run.path), run.model):
        assert plain(densevit.evaluate(one)) == expected
    assert model.training
    assert_same(before, model.state_dict())
    model.eval()
    assert main(["evaluate", str(run.path), "data.val_length=2", "--out", str(tmp_path / "out")]) == 0
    data = {**configs.load(run.path).data.model_dump(), "val_length": 2}
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert plain(densevit.evaluate(run, data)) == written != expected


@pytest.mark.integration
def test_evaluate_takes_overrides_of_the_evaluator_as_the_command(run: Any, tmp_path: Path) -> None:
    override = "heads.surfaces.evaluation.boundary=true"
    assert main(["evaluate", str(run.path), override, "--out", str(tmp_path / "out")]) == 0
    found = densevit.evaluate(run, overrides=[override])
    assert plain(found) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found.keys() > run.metrics.keys()
    with pytest.raises(ConfigError, match=r"heads\.surfaces\.width=8: the model exists, and cannot change"):
        densevit.evaluate(run, overrides=["heads.surfaces.width=8"])


def test_evaluation_in_half_precision_keeps_the_weights(run: Any) -> None:
    """Which Lightning casts; the next step of a training needs them as they were."""
    model = run.model.with_config(configs.with_overrides(run.model.config, {"trainer.precision": "bf16-true"}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    densevit.evaluate(model)
    assert_same(before, model.state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.integration
def test_a_model_of_no_config_needs_data_of_its_classes() -> None:
    section = {"name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "val_length": 3}
    surfaces = [one.name for one in Scenes("val", image_size=32, val_length=1).classes["segmentation"]]
    backbone, head = {"name": "swin", "variant": "nano"}, {"name": "setr", "decoder": "naive", "width": 8}

    def evaluated(names: list[str], *data: Any, **given: Any) -> dict[str, float]:
        return densevit.evaluate(densevit.create_model(backbone, {"map": head}, names), *data, **given)

    with pytest.raises(ConfigError, match=r"evaluate: the model has no config, so no data\. Fix: pass data="):
        evaluated(surfaces)
    assert set(evaluated(surfaces[::-1], section)) >= {"map/mIoU", "map/aAcc"}  # mapped by name
    with pytest.raises(DataError, match=r"classes of head 'map' have no name in common\. Classes of the data: ball, "):
        evaluated(["unicorn"], section)
    metrics = evaluated(["unicorn", surfaces[-1]], section, classes={"unicorn": surfaces[0]})
    assert {name for name in metrics if "/IoU/" in name} == {f"map/IoU/{surfaces[n]}" for n in (0, -1)}


@pytest.mark.integration
def test_a_folder_is_resized_as_in_training(tmp_path: Path) -> None:
    root, sizes = tmp_path / "set", set[tuple[int, int]]()
    assert main(["scenes", "--out", str(root), "--count", "3", "--size", "96", "--quiet"]) == 0
    model = densevit.create_model(configs.load("detr_swin", ["data.image_size=64"]), pretrained=False)
    model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.add((*inputs[0].shape[2:],)))
    for data, overrides in ((str(root), ()), (root, ()), (None, [f"data={root}"])):
        sizes.clear()
        densevit.evaluate(model, data, overrides=overrides)
        assert sizes == {(64, 64)}


SCENES = {"name": "scenes", "image_size": 32, "batch_size": 1, "num_workers": 0, "val_length": 1}
VIT = {"name": "vit", "variant": "nano"}


def small_model() -> densevit.DenseModel:
    names = [each.name for each in Scenes("val", image_size=32, val_length=1).classes["segmentation"]]
    return densevit.create_model(VIT, NAIVE, names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_each_type_are_evaluated_in_it(dtype: torch.dtype) -> None:
    """As `predict` does, also where the hardware's training precision is mixed."""
    model, seen = small_model().to(dtype), []
    model.backbone.register_forward_hook(lambda module, inputs, maps: seen.append((inputs[0].dtype, maps[0].dtype)))
    accuracy = densevit.evaluate(model, SCENES)["segmentation/aAcc"]
    sample = Scenes("val", image_size=32, val_length=1)[0]
    predicted, truth = model.predict(sample["image"]).semantic, sample["targets"]["semantic"]
    assert accuracy == pytest.approx(float((predicted == truth)[truth != 255].float().mean()))
    assert {*seen} == {(dtype, dtype)}


@pytest.mark.parametrize("precision", ["bf16-true", "64"])
def test_an_evaluation_that_casts_weights_leaves_those_of_the_model(precision: str) -> None:
    sections = {"backbone": VIT, "heads": {"segmentation": NAIVE}, "data": SCENES}
    trainer = {"max_steps": 1, "precision": precision}
    model = densevit.create_model(configs.from_mapping({**sections, "trainer": trainer}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert "segmentation/mIoU" in densevit.evaluate(model)
    assert_same(before, model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_in_half_precision_are_not_trained_as_if_in_full(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_model().to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ConfigError, match=rf"precision is 32, but .* weights in {name}.* Fix: model\.float\(\)"):
        densevit.fit(model, data=SCENES, max_steps=1, precision="32", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def depth_folder(root: Path, metres: float, suffix: str, unit: float) -> str:
    """Images of one depth. unit: the metres per unit of the files."""
    for part in ("images", "labels"):
        (root / part / "val").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (64, 32)).save(root / "images" / "val" / f"{name}.png")
        stored = np.full((32, 64), metres / unit, np.float32)
        file = root / "labels" / "val" / name
        if suffix == "npy":
            np.save(f"{file}.npy", stored)
        else:
            Image.fromarray(stored.astype(np.uint16) if suffix == "png" else stored).save(f"{file}.{suffix}")
    return str(root)


@pytest.mark.integration
def test_depth_of_another_folder_has_the_unit_of_its_files(tmp_path: Path) -> None:
    """The training's files are of 1/256 m; the error of a model that predicts 40 m for 20 m is 1."""
    former = depth_folder(tmp_path / "former", 20, "png", 1 / 256)
    backbone, head = {"name": "swin", "variant": "nano"}, {"name": "dpt", "output": "sigmoid", "max_depth": 80}
    model = densevit.create_model(backbone, {"depth": head})
    for weights in list(model.heads["depth"].modules())[-1].parameters():
        torch.nn.init.zeros_(weights)
    data = {"name": "depth", "root": former, "scale": 1 / 256, "num_workers": 0}
    model.training_data = configs.section("data", data, "test")
    model.training_record = TrainingRecord(medians={"depth": [15.0, 20.0, 24.0]})
    assert densevit.evaluate(model, former)["depth/AbsRel"] == pytest.approx(1, abs=1e-3)
    for suffix in ("npy", "tiff"):
        folder = depth_folder(tmp_path / suffix, 20, suffix, 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="depth: the evaluated images")
            assert densevit.evaluate(model, folder)["depth/AbsRel"] == pytest.approx(1, abs=1e-3)
    integers = depth_folder(tmp_path / "integers", 20, "png", 0.001)
    with pytest.raises(DataError, match=r"data\.scale is missing.*set data\.scale=0\.001"):
        densevit.evaluate(model, integers)
    typed = densevit.evaluate(model, {**data, "root": integers, "scale": 0.001})
    assert typed["depth/AbsRel"] == pytest.approx(1, abs=1e-3)
    centimetres = depth_folder(tmp_path / "centimetres", 2, "npy", 0.01)
    with pytest.warns(UserWarning, match="a median of 200, 10 times above that of the training images, 20 "):
        densevit.evaluate(model, centimetres)
