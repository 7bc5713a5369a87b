"""densevit/training/run/evaluation.py: the command line's evaluate in Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError, DataError
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
