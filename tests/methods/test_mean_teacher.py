"""Mean teacher: the average, pseudo targets and their geometry, thresholds, burn-in, losses, and short trainings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError
from densevit.interfaces import LossContext
from densevit_methods.mean_teacher import MeanTeacher
from densevit_methods.pseudo_targets import missing_labels
from tests.built_models import build_model
from tests.methods import pretraining
from tests.methods.pretraining import DEPTH, FEW_LABELS, SETR, randomised
from tests.training.runs import rows, weights

HEADS: dict[str, dict[str, Any]] = {
    "one_stage": {"name": "one_stage"},
    "setr": SETR,
    "dpt": DEPTH,
    "canonical": {**DEPTH, "camera": "canonical"},
    "relative": {"name": "dpt", "width": 16, "norm": "none"},
}


def config(*heads: str, **method: Any) -> Config:
    sections = {"heads": {name: HEADS[name] for name in heads}, "data": FEW_LABELS}
    return pretraining.config({"name": "mean_teacher", **method}, **sections)


def built(*heads: str, **options: Any) -> tuple[Any, MeanTeacher, Any]:
    """A model with random weights, the method, and a batch of a labelled and two unlabelled images."""
    made = config(*heads, **options)
    data = build_data(made)
    model = build_model(made, data.train)
    method = MeanTeacher(randomised(model), **options)
    data.use(method)
    return model.train(), method.train(), next(iter(data.train_loader()))


# ---- the teacher ----


def test_teacher_is_the_moving_average_of_the_student() -> None:
    """With decay 1 - 1/n at first. Against the sum of the weighted student weights; buffers follow, too."""
    model, _, _ = built("setr")
    model.register_buffer("mean_of_norm", torch.tensor(3.0))
    model.register_buffer("count", torch.tensor(5))
    method = MeanTeacher(model, decay=0.75).train()
    name, parameter = next(iter(model.backbone.named_parameters(prefix="backbone")))
    history: list[Tensor] = []
    for step in range(6):
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
            model.mean_of_norm.fill_(7.0 if step < 2 else 10.0)
            model.count.fill_(step)
            method.after_step(model)
        history.append(parameter.detach().double().clone())
        assert method.teacher.count == step
        if step < 3:
            assert float(method.teacher.mean_of_norm) == pytest.approx(7.0 if step < 2 else 8.0)  # a third of the way
    expected = history[0]
    for n, current in enumerate(history[1:], 2):
        expected = torch.lerp(current, expected, min(0.75, 1 - 1 / n))
    torch.testing.assert_close(method.teacher.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in method.teacher.parameters()) and method.eval_model(model) is method.teacher
    assert not any(module.training for module in method.teacher.modules())


# ---- pseudo targets ----


def test_pseudo_boxes_are_those_of_the_view_above_the_threshold() -> None:
    """The teacher's predictions at the original size, scaled to the view by hand."""
    head = "one_stage"
    _, method, batch = built(head)
    targets = [{**target, "size": (30, 50), "original_size": (60, 150)} for target in batch["targets"]]
    predictions = method.teacher.predictions(method.teacher(batch), targets)[head]
    scores = torch.cat([prediction["scores"] for prediction in predictions]).sort(descending=True).values
    method.score_threshold = float(scores[len(scores) // 3])
    assert scores[0] > scores[-1]
    for i, (found, prediction) in enumerate(
        zip(method.pseudo_targets({**batch, "targets": targets}, [[head]] * 3)[head], predictions, strict=True)
    ):
        boxes = prediction["boxes"] * torch.tensor([50 / 150, 30 / 60, 50 / 150, 30 / 60])
        boxes = torch.stack([boxes[:, 0::2].clamp(0, 50), boxes[:, 1::2].clamp(0, 30)], 2).flatten(1)
        keep = (prediction["scores"] >= method.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        order = found["labels"].argsort(stable=True), prediction["labels"][keep].argsort(stable=True)
        torch.testing.assert_close(found["boxes"][order[0]], boxes[keep][order[1]], rtol=1e-4, atol=1e-3)
        assert found.keys() == {"image_id", "size", "original_size", "boxes", "labels"}
        assert found["image_id"] == targets[i]["image_id"]


@pytest.mark.parametrize("head", ["dpt", "relative", "canonical"])
def test_pseudo_depth_is_the_prediction_in_metres_or_its_inverse(head: str) -> None:
    _, method, batch = built(head)
    maps = method.teacher.heads[head].maps(method.teacher(batch)[head], batch["images"].shape[2:])
    for i, found in enumerate(method.pseudo_targets(batch, [[head]] * 3)[head]):
        height, width = found["size"]
        expected = maps[i, 0, :height, :width]
        expected = torch.where(expected > 0, 1 / expected, 0) if head == "relative" else expected
        torch.testing.assert_close(found["depth"], expected)
        assert found["depth"].isfinite().all()
        assert found.get("focal") == {"canonical": 300}.get(head)  # metres of the canonical camera are its labels


# ---- losses ----


@pytest.mark.parametrize("head", ["one_stage", "setr"])
def test_losses_are_those_of_labels_and_of_predictions(head: str) -> None:
    """Each image alone through model and head, as written out."""
    options = {"score_threshold": 0.02, "pixel_threshold": 0.085, "unlabelled_weight": 3.0}
    model, method, batch = built(head, **options)
    found = method.training_step(model, batch, LossContext())
    [strong] = batch["other_views"]
    lacks = [not all(key in target for key in model.heads[head].required_targets) for target in batch["targets"]]
    assert lacks == [False, True, True]

    def outputs(view: Any, rows: slice) -> Any:
        features = model.backbone(model.normalise(view["images"][rows], view["padding_mask"][rows]))
        return model.heads[head](features, view["padding_mask"][rows])

    first, rest = slice(0, 2), slice(1, 3)  # the labelled image, with another one for batch norm
    bare = {key: batch["targets"][1][key] for key in ("image_id", "size", "original_size")}
    expected = model.heads[head].loss(outputs(batch, first), [batch["targets"][0], bare], LossContext())
    with torch.no_grad():
        pseudo = method.pseudo_targets(batch, [[], [head], [head]])[head][rest]
    unlabelled = model.heads[head].loss(outputs(strong, rest), pseudo, LossContext())
    expected = {f"{head}/{name}": x for name, x in expected.items()}
    expected |= {f"unlabelled/{head}/{name}": 3 * x for name, x in unlabelled.items()}
    assert found.keys() == expected.keys() and any(x > 0 for name, x in found.items() if "unlabelled" in name)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.integration
def test_training_on_few_labels(tmp_path: Path) -> None:
    """The first step, of the burn-in, has no losses of predictions; the teacher is what is saved."""
    run = densevit.fit(config("setr", "dpt", burn_in=1, pixel_threshold=0.0835), run_dir=tmp_path / "run")
    for term in ("setr/cross_entropy", "dpt/silog"):
        found = [float(row[f"train/unlabelled/{term}"]) for row in rows(run.path) if row.get("train/loss")]
        assert len(found) == 2 and found[0] == 0 < found[1], term
    state = weights(run.path)
    for name, x in run.model.state_dict().items():
        assert torch.equal(x, state[f"method.teacher.{name}"]), name


# ---- errors ----


@pytest.mark.parametrize(
    ("required_targets", "options", "message"),
    [
        (("semantic",), {"decay": 1.5}, "decay is 1.5; a number from 0 to 1"),
        (("semantic",), {"burn_in": -1}, "burn_in is -1"),
        (("panoptic",), {}, r"heads\.setr needs panoptic; the method mean_teacher predicts boxes and labels"),
    ],
)
def test_wrong_options_are_errors(required_targets: Any, options: Any, message: str) -> None:
    made = config("setr")
    model = build_model(made, build_data(made).train)
    model.heads["setr"].required_targets = required_targets
    with pytest.raises((ConfigError, ValueError), match=message):
        MeanTeacher(model, **options)


def test_a_burn_in_without_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.burn_in is 2, and the training has 2 optimiser steps: .*labels on"):
        densevit.fit(config("setr", burn_in=2), run_dir=tmp_path / "run")


# ---- maps without labels ----


def test_a_map_that_labels_nothing_is_a_missing_label() -> None:
    model, _, _ = built("setr", "dpt")
    semantic, depth = torch.full((40, 64), 255, dtype=torch.uint8), torch.full((40, 64), torch.nan)
    assert missing_labels(model.heads, {"semantic": semantic, "depth": depth}) == ["setr", "dpt"]
    semantic[3, 4], depth[1, 2] = 0, 2.5
    assert missing_labels(model.heads, {"semantic": semantic, "depth": depth}) == []
    assert missing_labels(model.heads, {"depth": depth}) == ["setr"]
