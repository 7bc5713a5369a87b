"""What a training and an evaluation say about an AP below 0.01: one case per cause, with numbers worked out by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from densevit import config as configs
from densevit.cli import main
from densevit.config import Config
from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class, Dataset
from densevit.training.loop.budget import Budget
from tests.training.runs import train

CLASSES = [Class("cat", 1, (0, 0, 0))]
HINT = " See the hints at the start of this run."


def explanations() -> Any:
    from densevit.training.run import low_scores  # imports Lightning

    return low_scores


class Boxes(Dataset):
    """Images of 100 x 200 (h, w) with one box each."""

    def __init__(self, boxes: Any) -> None:
        self.boxes, self.classes = np.asarray(boxes, np.float64).reshape(-1, 4), {}

    def __len__(self) -> int:
        return len(self.boxes)

    def sizes(self) -> np.ndarray:
        return np.tile([100, 200], (len(self), 1))

    def all_objects(self) -> Any:
        limits = np.array([200, 100, 200, 100])  # as the readers, which clip boxes to their images
        return np.arange(len(self)), {"boxes": self.boxes.clip(0, limits), "labels": np.zeros(len(self), int)}


def squares(side: float = 30) -> np.ndarray:
    """Boxes of 3 rows and 20 columns, in each part of the image."""
    low = np.array([(x, y) for x in range(0, 160, 8) for y in (0, 30, 60)], np.float64)
    return np.concatenate([low, low + side], axis=1)


def corners(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 read as x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def model(stride: int = 4) -> Any:
    from densevit.model import DenseModel

    made = DenseModel.__new__(DenseModel)
    vars(made).update(backbone=SimpleNamespace(strides=(stride, 8), input_size=None), necks={})
    return made


def causes(train: Any, val: Any, image_size: int = 200, stride: int = 4, early: bool = True) -> dict[str, str]:
    section = configs.DataSection(name="coco", root="street", image_size=image_size)
    splits = {"train": Boxes(train), "val": Boxes(val)}
    return explanations().head_causes("d", CocoDetection(CLASSES), 0.0, model(stride), section, splits, early)


RELATIVE = squares() / [200, 100, 200, 100]


@pytest.mark.parametrize(
    ("train", "val", "options", "cause", "facts"),
    [
        (squares(), squares(), {}, None, ()),
        (squares(), RELATIVE, {}, "boxes", ("Boxes of val: all 60 are within 0 ... 1",)),
        (RELATIVE, RELATIVE, {}, "boxes", ("Boxes of train: all 60", "Boxes of val: all 60")),
        # Of 20 columns, the last 7 begin right of 100; of 3 rows, that at 60 begins below 50: 7 * 3 + 13 boxes.
        (corners(squares()), squares(), {}, "boxes", ("Boxes of train: all 34 that begin in the right",)),
        # Sides of 30 px in images of 200 are 3 px at 20.
        (squares(), squares(), {"image_size": 20}, "size",
         ("Median object: 3 px at data.image_size=20 (30 px in the files)", "100% of the objects are smaller", "4 px")),
        (squares(), squares(), {"image_size": 20, "stride": 2}, None, ()),  # few steps: not the cause
        (squares(), squares(), {"image_size": 20, "stride": 2, "early": False}, "size", ()),
        (squares(8), squares(33), {}, "splits", ("their median sides are 8 and 33 px in the model's",)),
    ],
)  # fmt: skip
def test_causes_in_the_data_are_named(train: Any, val: Any, options: Any, cause: str | None, facts: Any) -> None:
    found = causes(train, val, **options)
    assert list(found) == ([cause] if cause else [])
    for fact in facts:
        assert fact in found[str(cause)]
    assert cause in (None, "splits") or found[str(cause)].endswith(HINT)


def recipe(*overrides: str) -> Config:
    return configs.load("bccd", overrides)  # lr 7e-4 for 8 images, 70 epochs


def training(config: Config, losses: tuple[float, ...] = (), images: int | None = None) -> dict[str, str]:
    return explanations().training_causes(config, Budget(100, 26, images or config.data.batch_size, 0.1), losses)


def test_a_high_learning_rate_and_a_loss_that_does_not_fall_are_named() -> None:
    assert training(recipe()) == training(recipe("data.batch_size=4")) == training(recipe("optim.lr=2.7e-3")) == {}
    line = training(recipe("data.batch_size=1"))["rate"]
    assert "0.0007 for 1 image per step; the recipe has 0.0007 for 8, as 8.75e-05 here. Fix: optim.lr=8.7e-05." in line
    assert training(recipe("optim.lr=7e-3"), images=80) == {}, "ten processes"
    assert training(recipe("optim.lr_per_256=0.0224")) == {}
    assert training(configs.from_mapping({**recipe().model_dump(), "optim": {"lr": 1.0}})) == {}, "no recipe"
    # Thirds of 10 values have 3.
    line = training(recipe(), (1.0, 2.0, 1.5, 9.0, 9.0, 9.0, 9.0, 1.5, 2.5, 2.0))["rate"]
    assert "train/loss is 1.5 and 2 in the first and the last third of the logged steps. Fix: optim.lr=0.00017" in line
    assert "1.5 and nan" in training(recipe(), (1.0, 2.0, 1.5, 9.0, 9.0, 9.0, 1.5, 1.5, float("nan")))["rate"]
    assert training(recipe(), (3.0, 2.0, 1.0, 4.0, 4.0, 4.0, 1.0, 0.5, 3.0)) == {}
    assert training(recipe(), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)) == {}, "too few"


class Explaining(CocoDetection):
    """An evaluator of a third party."""

    computed = 0

    def low_score_causes(self) -> dict[str, str]:
        self.computed += 1
        return {"scores": "no objects", "own": "a cause"}


def explained(folder: Path, val: Any = None) -> tuple[Any, Any, Explaining]:
    """Of a run of 1,200 steps from random weights, with a module at step 10, and a head of another task at 0."""
    evaluator = Explaining(CLASSES)
    data = SimpleNamespace(train=Boxes(squares()), val=Boxes(squares() if val is None else val))
    plan: Any = SimpleNamespace(config=recipe("data.image_size=200"), data=data, model=model())
    plan.evaluators, plan.budget = {"s": SemanticSegmentation(CLASSES), "d": evaluator}, Budget(1200, 26, 8, 0.1)
    metrics = {"d/AP": 0.001, "d/AP50": 0.01, "s/mIoU": 0.0}
    module = SimpleNamespace(trainer=SimpleNamespace(global_step=10), metrics=metrics)
    return explanations().LowScores(plan, folder), module, evaluator


def test_each_cause_is_said_once_below_one_hundredth_and_no_scores_before_enough_steps(tmp_path: Path) -> None:
    explain, module, evaluator = explained(tmp_path, squares() / 200)
    module.metrics["d/AP"] = 0.1
    assert explain(module) == [] and evaluator.computed == 0  # a good score computes nothing
    module.metrics["d/AP"] = 0.01  # too good to examine the data
    assert [explain(module), explain(module)] == [["d: a cause"], []]
    module.metrics["d/AP"] = 0.0
    [line] = explain(module)
    assert line.startswith("d: Boxes of val: all 60 are within 0 ... 1") and line.endswith(HINT)
    module.trainer.global_step = 1000
    assert [explain(module), explain(module)] == [["d: no objects"], []]
    lines = ["step,train/loss,d/AP", *(f"{step},{step / 50}," for step in range(50, 500, 50)), "450,,0.001"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    explain, module, _ = explained(tmp_path)
    assert "train/loss is 2 and 8 in the first and the last third" in explain(module)[-1]


def test_a_config_names_the_recipe_that_it_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: bccd\ndata: {batch_size: 1}\noptim: {lr: 1.0}\n")
    of_file = configs.recipe_of(configs.load(tmp_path / "mine.yaml", ["optim.lr=2", "data=coco"]))
    assert of_file is not None and (of_file.optim.lr, of_file.data.batch_size) == (7e-4, 8)
    assert configs.recipe_of(configs.from_mapping(recipe().model_dump())) is None


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_a_run_and_an_evaluation_print_the_lines(tiny, capsys, monkeypatch):
    monkeypatch.setattr(CocoDetection, "low_score_causes", lambda self: {"own": "a cause of three words"})
    run = train(configs.load(tiny, ["trainer.max_steps=2", "trainer.evaluate_every=0.5"]), tiny.parent / "run")
    assert capsys.readouterr().out.count("detection: a cause of three words") == 1
    assert main(["evaluate", str(run)]) == 0
    assert "a cause of three words" in capsys.readouterr().out
