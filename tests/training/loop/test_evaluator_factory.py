"""densevit/training/loop/evaluator_factory.py: heads with `evaluation: null` are validated by their loss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError
from densevit.losses.context import LossContext
from densevit.model import DenseModel
from densevit.training.loop.evaluator_factory import ValidationLoss, build_evaluators
from densevit.weights import model_file
from tests.inference.own_parts import Accuracy, Halves, Labels, Net
from tests.training.runs import rows

SEGMENTATION = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: batch, evaluation: null}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 4, val_length: 5}
optim: {lr: 1e-2}
trainer: {max_steps: 2, precision: "32", accelerator: cpu, evaluations: 2}
"""


def by_hand(run: Path, head: str) -> float:
    """The mean loss over the validation images, each in a batch of one."""
    model = model_file.load(run)
    config = model.sections
    assert isinstance(config, Config)
    data = build_data(config, model.size_divisor)
    losses = []
    for index in range(len(data.val)):
        batch = collate([data.val_transform(data.val[index])], model.size_divisor)
        with torch.no_grad():
            losses += model.heads[head].loss(model(batch)[head], batch["targets"], LossContext()).values()
    return float(sum(losses)) / len(data.val)


@pytest.mark.integration
def test_the_metric_is_the_mean_loss_over_images_and_the_best_epoch_goes_by_it(tmp_path: Path):
    config_file = tmp_path / "loss.yaml"
    config_file.write_text(SEGMENTATION)
    run = densevit.fit(config_file, ["trainer.max_steps=4", "trainer.evaluations=4"], run_dir=tmp_path / "run")
    assert run.metrics == {"surfaces/loss": pytest.approx(by_hand(run.path, "surfaces"), rel=1e-5)}
    values = [float(row["surfaces/loss"]) for row in rows(run.path) if row["surfaces/loss"]]
    assert len(values) == 4 and run.metrics["surfaces/loss"] == min(values)
    assert densevit.evaluate(run) == run.metrics
    data = {**configs.load(run.path).data.model_dump(), "batch_size": 5}  # does not depend on the batch either
    assert densevit.evaluate(run, data) == pytest.approx(run.metrics, rel=1e-6)


# ---- a head's own evaluator ----


def evaluated_by(evaluation: Any) -> DenseModel:
    """A model of halves, whose head `x` has this section `evaluation`."""
    torch.manual_seed(0)
    return densevit.create_model(Net, {"x": {"name": Labels, "evaluation": evaluation}}, ["left", "right"])


MODULE = "tests.inference.own_parts"
EXPECTED: dict[str, tuple[Any, str, float]] = {  # the section, the metric, and per cent for 1
    "class": (Accuracy, "x/accuracy", 1),
    "class with options": ({"name": Accuracy, "per_cent": True}, "x/accuracy", 100),
    "module:Class": ({"name": f"{MODULE}:Accuracy", "per_cent": True}, "x/accuracy", 100),
    "instance": (Accuracy(["left", "right"], per_cent=True), "x/accuracy", 100),
    "null": (None, "x/loss", 1),
    "default": ({}, "x/mIoU", 1),
}


@pytest.mark.parametrize("form", EXPECTED)
def test_every_model_is_evaluated_by_the_evaluator_of_its_head(form: str) -> None:
    section, metric, _ = EXPECTED[form]
    [evaluator] = build_evaluators(evaluated_by(section), Halves(2)).values()
    assert metric == f"x/{evaluator.main}"


@pytest.mark.integration
@pytest.mark.parametrize("form", EXPECTED)
def test_every_call_that_evaluates_uses_the_evaluator_of_the_head(form: str, tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    section, metric, factor = EXPECTED[form]
    model, file, data = evaluated_by(section), tmp_path / "model.safetensors", Halves(3)
    expected = densevit.evaluate(model, data)[metric]
    if metric == "x/accuracy":
        correct = []
        for index in range(3):
            sample = data[index]
            correct.append((model.predict(sample["image"]).semantic == sample["targets"]["semantic"]).float().mean())
        assert expected == pytest.approx(factor * float(sum(correct)) / 3)
    densevit.save(model, file)
    assert densevit.evaluate(densevit.load(file, trust=True), data)[metric] == expected
    assert densevit.evaluate(densevit.load(file, model=evaluated_by(section)), data)[metric] == expected
    if metric == "x/accuracy":
        with pytest.raises(ConfigError, match=f"'{MODULE}:Accuracy' is named in this file.*trust=True"):
            densevit.load(file)
    module = densevit.DenseModule(model, {"lr": 1e-9})
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_model_summary=False, max_steps=1, **options)
    trainer.validate(module, densevit.DenseDataModule(train=data, val=data), verbose=False)
    assert metric in module.validation.metrics
    keys = {"max_steps": 1, "lr": 1e-9, "batch_size": 3, "num_workers": 0, "accelerator": "cpu", "precision": "32"}
    assert metric in densevit.fit(model, train=data, val=data, run_dir=tmp_path / "run", **keys).metrics


# ---- the evaluator ----


def test_images_count_once_and_unlabelled_ones_not_at_all() -> None:
    evaluator = ValidationLoss(())
    evaluator.update([{"loss": 1.0}, {}, {"loss": 4.0}, {"loss": 9.0}], [{"image_id": i} for i in (1, 2, 3, 1)])
    assert evaluator.metrics() == {"loss": 2.5}
    other = ValidationLoss(())
    other.update([{"loss": 0.1}, {"loss": 4.0}], [{"image_id": 7}, {"image_id": 3}])
    evaluator.merge([evaluator.state(), other.state()])
    assert evaluator.metrics() == {"loss": pytest.approx(5.1 / 3)}
    evaluator.reset()
    assert math.isnan(evaluator.metrics()["loss"])
