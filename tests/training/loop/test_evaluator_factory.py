"""densevit/training/loop/evaluator_factory.py: heads with `evaluation: null` are validated by their loss."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError
from densevit.interfaces import Head
from densevit.losses.context import LossContext
from densevit.training.loop.evaluator_factory import ValidationLoss
from densevit.weights import model_file
from tests.training.runs import rows, train

SEGMENTATION = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: batch, evaluation: null}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 4, val_length: 5}
optim: {lr: 1e-2}
trainer: {max_steps: 2, precision: "32", accelerator: cpu, evaluations: 2}
"""


class Embedding(Head):
    """A task of its own, without predictions and without an evaluator: the mean of the squared map."""

    task, required_targets = "embedding", ("boxes",)

    def __init__(self, channels: Any, strides: Any, classes: Any, scale: float = 1.0) -> None:
        super().__init__(channels, strides, classes)
        self.layer, self.scale = nn.Conv2d(channels[-1], 2, 1), scale

    def forward(self, features: Any, padding_mask: Any, targets: Any = None) -> Any:
        return {"map": self.layer(features[-1])}

    def loss(self, outputs: Any, targets: Any, context: LossContext) -> Any:
        count = (
            LossContext.across_processes().mean(torch.tensor(float(sum(len(t["boxes"]) for t in targets)))).clamp(min=1)
        )
        return {"l2": self.scale * outputs["map"].square().sum() / count, "l1": outputs["map"].abs().mean()}


EMBEDDING = f"{{name: '{__name__}:Embedding', scale: 0.5, evaluation: null}}"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "loss.yaml"
    path.write_text(SEGMENTATION)
    return path


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
def test_the_metric_is_the_mean_loss_over_images_and_the_best_epoch_goes_by_it(config_file, tmp_path):
    run = densevit.fit(config_file, ["trainer.max_steps=4", "trainer.evaluations=4"], run_dir=tmp_path / "run")
    assert run.metrics == {"surfaces/loss": pytest.approx(by_hand(run.path, "surfaces"), rel=1e-5)}
    values = [float(row["surfaces/loss"]) for row in rows(run.path) if row["surfaces/loss"]]
    assert len(values) == 4 and run.metrics["surfaces/loss"] == min(values)
    assert densevit.evaluate(run) == run.metrics
    data = {**configs.load(run.path).data.model_dump(), "batch_size": 5}  # does not depend on the batch either
    assert densevit.evaluate(run, data) == pytest.approx(run.metrics, rel=1e-6)


@pytest.mark.integration
def test_a_head_without_predictions_trains_beside_one_with_an_evaluator(config_file: Path, tmp_path: Path) -> None:
    run = train(configs.load(config_file, [f"heads.own={EMBEDDING}", "heads.surfaces.evaluation={}"]), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["own/loss"] == pytest.approx(by_hand(run, "own"), rel=1e-5)
    assert "surfaces/mIoU" in metrics and "surfaces/loss" not in metrics
    message = r"heads\.own\.evaluation: there is no evaluator for the task 'embedding'.*heads\.own\.evaluation: null"
    with pytest.raises(ConfigError, match=message):
        train(configs.load(config_file, [f"heads.own={{name: '{__name__}:Embedding'}}"]), tmp_path / "without")


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
