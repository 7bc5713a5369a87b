"""Two processes train and evaluate as one: equal losses, metrics and order, also for a run that changes their number.

The data set has 25 images in batches of 2, and the second process sees no object, class or depth in half of its steps.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import TransformedDataset
from densevit.evaluation import metrics_file
from densevit.interfaces import Sample
from densevit_scenes.dataset import Scenes
from tests.training.process_groups import in_two_processes, linux
from tests.training.runs import resume, rows, train, without_report

pytestmark = linux

STEPS, BREAK, IMAGES = 8, 3, 25
# SGD keeps the scale of gradients, so that a wrong normaliser shows. SETR's and DPT's norms over a few cells amplify
# rounding at higher rates.
CONFIG = """
backbone: {name: swin, variant: nano, window_size: 4, drop_path: 0.0}
heads:
  detr: {name: detr, num_queries: 6, transformer: {width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 2,
    feedforward: 16, dropout: 0.0}}
  setr: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: group, class_weights: balanced}
  dpt: {name: dpt, output: sigmoid, max_depth: 60, width: 16, norm: none, loss_weights: {gradient: 0.5}}
data: {name: scenes, image_size: 64, transforms: crop, batch_size: 2, num_workers: 0, train_length: 25, val_length: 5}
optim: {name: sgd, lr: 1e-3, schedule: constant, warmup_steps: 2}
trainer: {max_steps: 8, precision: "32", accelerator: cpu, devices: 1, log_every: 1, clip_grad_norm: 1.0,
  evaluations: 1}
"""
ALONE = ["trainer.devices=1", "trainer.strategy=auto", "data.batch_size=2"]
TOGETHER = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=1"]


def settings(overrides: list[str], steps: int = STEPS) -> configs.Config:
    return configs.from_mapping(yaml.safe_load(CONFIG), overrides=[*overrides, f"trainer.max_steps={steps}"])


def without_labels() -> Any:
    """Removes all labels of the second process's images in the second half of the steps, of two processes or of one."""
    batches = list(TrainBatches(IMAGES, 1, seed=0, rank=1, world_size=2))
    emptied = {pick.index for batch in batches[STEPS // 2 :] for pick in batch}
    original: Callable[[Scenes, int], Sample] = Scenes.__getitem__

    def changed(self: Scenes, index: int) -> Sample:
        sample = original(self, index)
        targets = sample["targets"]
        if len(self) == IMAGES and index in emptied:
            for key in ("boxes", "labels", "area", "iscrowd", "masks"):
                targets[key] = targets[key][:0]
            targets["semantic"] = torch.full_like(targets["semantic"], 255)
            targets["depth"] = torch.zeros_like(targets["depth"])
        return sample

    return mock.patch.object(Scenes, "__getitem__", changed)


def noted_images(seen: list[list[int]]) -> Any:
    """Notes the indices of the images that a process trains on."""
    original = TransformedDataset.__getitem__

    def noted(self: TransformedDataset, pick: Any) -> Any:
        if self.train:
            seen.append([pick.index, pick.seed, pick.repeat])
        return original(self, pick)

    return mock.patch.object(TransformedDataset, "__getitem__", noted)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process and of two, and those that change from one to the other after 3 steps."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bit of a sum depends on the number of threads
    seen: list[list[int]] = []

    def work(rank: int) -> None:
        seen: dict[str, list[list[int]]] = {"trained": [], "resumed": []}
        with noted_images(seen["resumed"]):
            resume(folder / "begun-alone", [*TOGETHER, f"trainer.max_steps={STEPS}"])
        with noted_images(seen["trained"]):
            train(settings(TOGETHER), folder / "together")
        evaluated = ["evaluate", str(folder / "alone"), *TOGETHER, "data.batch_size=2"]
        assert main([*evaluated, "--out", str(folder / "evaluated")]) == 0
        train(settings(TOGETHER, BREAK), folder / "begun-together")
        (folder / f"python-{rank}.json").write_text(json.dumps(densevit.evaluate(folder / "alone")))
        (folder / f"{rank}.json").write_text(json.dumps(seen))

    with without_labels(), without_report():
        with noted_images(seen):
            train(settings(ALONE), folder / "alone")
        train(settings(ALONE, BREAK), folder / "begun-alone")
        in_two_processes(work, folder)
        resume(folder / "begun-together", [*ALONE, f"trainer.max_steps={STEPS}"])
    torch.set_num_threads(threads)
    (folder / "alone.json").write_text(json.dumps(seen))
    return folder


def assert_equal_losses(run: Path, other: Path) -> None:
    """The sum and the mean loss of each term in each step."""
    one, two = ([row for row in rows(folder) if row.get("train/loss")] for folder in (run, other))
    names = [
        name for name in one[0] if name == "train/loss" or name.startswith(("train/detr", "train/setr", "train/dpt"))
    ]
    assert len(one) == len(two) == STEPS and len(names) > 4
    for name in names:
        losses = [[float(row[name]) for row in logged] for logged in (one, two)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.integration
def test_losses_and_metrics_of_two_processes_match_one(runs: Path) -> None:
    """Of a training, and of an evaluation of one checkpoint, which are equal."""
    assert_equal_losses(runs / "alone", runs / "together")
    alone, together, evaluated = (
        metrics_file.read(runs / name / "metrics.json") for name in ("alone", "together", "evaluated")
    )
    in_python = [json.loads((runs / f"python-{rank}.json").read_text()) for rank in range(2)]
    for found in (evaluated, *in_python):
        assert found == pytest.approx(alone, rel=0, abs=0, nan_ok=True)
    assert together == pytest.approx(alone, abs=1e-3, nan_ok=True)


@pytest.mark.integration
def test_run_continues_on_another_number_of_processes_in_the_order_of_one(runs: Path) -> None:
    for begun in ("alone", "together"):
        assert_equal_losses(runs / "alone", runs / f"begun-{begun}")
    one = json.loads((runs / "alone.json").read_text())[-2 * STEPS :]  # without those read by the checks
    ranks = [json.loads((runs / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert len({pick[0] for pick in one}) == 2 * STEPS
    for name, count in (("trained", STEPS), ("resumed", STEPS - BREAK)):
        picks = [rank[name][-count:] for rank in ranks]
        assert [pick for pair in zip(*picks, strict=True) for pick in pair] == one[-2 * count :]
