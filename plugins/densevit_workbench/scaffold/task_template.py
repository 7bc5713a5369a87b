"""Template of a task: its modules, entry points, config, test and README."""

from densevit_workbench.scaffold.task_modules import DATA, EVALUATION, HEAD, MODULE, TARGET

CONFIG = """\
# The head of $name on a Swin from random weights, on its rendered images: 1.5 min on one CPU thread, error below 6
# degrees. A constant direction has 45.
#   densevit train configs/$name.yaml
seed: 0
backbone: {name: swin, variant: nano, window_size: 4, stem: conv}
heads:
  $name: {name: $name}
data: {name: $name, image_size: 64, batch_size: 4}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05, schedule: cosine, warmup: 0.05}
trainer: {max_images: 4000, clip_grad_norm: 1.0}
"""

TEST = '''\
"""Checks of the head, the evaluator, and the target type."""

import numpy as np
import pytest
import torch
from densevit.testing import check_head

from $name.data import ${cls}Data
from $name.evaluation import ${cls}Error
from $name.head import ${cls}Head
from $name.target import ${cls}Map, angles, vectors


def labels(*degrees: float) -> np.ndarray:
    """A label of one row; nan is unknown."""
    return vectors(np.deg2rad([degrees]))


def test_interface() -> None:
    """The same as `densevit check head $name`; the package must be installed, for the type of its labels."""
    check_head(${cls}Head)


def test_errors_of_a_case_worked_by_hand() -> None:
    truth, predicted = labels(0, 10, 170, np.nan), labels(5, 40, 10, 90)  # errors of 5, 30 and 20: 170 is -10
    evaluator = ${cls}Error(())
    prediction = {"$name": torch.tensor(predicted)}
    target = {"image_id": 1, "$name": torch.tensor(truth)}
    for _ in range(2):  # a repeated image counts once
        evaluator.update([prediction], [target])
    assert evaluator.metrics() == pytest.approx({"error": 55 / 3, "below10": 1 / 3}, abs=1e-3)


def test_labels_follow_their_image() -> None:
    stripes, size = ${cls}Map(), (1, 2)
    assert np.rad2deg(angles(stripes.hflip(labels(30, 60), size))) == pytest.approx(np.array([[-60, -30]]))
    quarter = np.array([[0.0, -1, 0], [1, 0, 0]])  # clockwise, around the first pixel
    assert np.rad2deg(angles(stripes.rotate(labels(30, 60), quarter, size)))[0, 0] == pytest.approx(-60)
    assert np.rad2deg(angles(stripes.resize(labels(45), (1, 1), (1, 2))))[0, 0] == pytest.approx(26.565, abs=1e-3)


def test_samples_are_valid() -> None:
    for split in ("train", "val"):
        sample = ${cls}Data(split)[0]
        label = sample["targets"]["$name"].numpy()
        ${cls}Map().check(label, tuple(sample["image"].shape[1:]))
'''

README = """\
# $name

A task for densevit.

| file | to be replaced by |
|---|---|
| `$name/data.py` | your images and labels |
| `$name/target.py` | how a label follows its image, is drawn and written |
| `$name/head.py` | your layers and loss |
| `$name/evaluation.py` | your metrics |
| `configs/$name.yaml` | your backbone, image size and budget |

```
pip install -e .                       # once, and again after a change in setup.cfg
densevit check head $name
python -m pip install pytest
python -m pytest
densevit train configs/$name.yaml
densevit evaluate runs/$name
```
"""

POINTS = {
    "datasets": "$name.data:${cls}Data",
    "targets": "$name.target:${cls}Map",
    "heads": "$name.head:${cls}Head",
    "evaluators": "$name.evaluation:${cls}Error",
}
MODULES = {"__init__.py": MODULE, "data.py": DATA, "target.py": TARGET, "head.py": HEAD, "evaluation.py": EVALUATION}
