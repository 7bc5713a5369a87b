"""Output distillation: the teacher's predictions as targets, classes by name, the heads' losses, and a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import LossContext
from densevit_methods.output_distillation import OutputDistillation
from tests.built_models import build_model
from tests.methods import pretraining
from tests.methods.pretraining import BACKBONES, DEPTH, FEW_LABELS, SETR, batch_of, randomised
from tests.training.runs import checkpoint, resume, weights

STUDENT = {"objects": {"name": "one_stage"}, "surfaces": SETR, "depth": DEPTH}
TEACHER = {"detection": {"name": "detr", "num_queries": 6, "transformer": {
    "width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}},
    "surfaces": {**SETR, "width": 8}, "depth": {**DEPTH, "width": 8}}  # fmt: skip


def config(backbone: str, heads: dict[str, Any], **method: Any) -> Config:
    return pretraining.config({"name": "supervised", **method}, backbone, heads=heads, data=FEW_LABELS)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher with another backbone and other heads, of which one has another name."""
    torch.manual_seed(0)
    made = config("resnet", TEACHER)
    model = build_model(made, build_data(made).train)
    randomised(model, 0.1)
    model.score_thresholds = {"detection": 0.125}
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    densevit.save(model.eval(), path)
    return str(path)


def built(teacher: str, heads: dict[str, Any] = STUDENT, **options: Any) -> tuple[Any, OutputDistillation, Any]:
    """A student with random weights, the method, and a batch of a labelled and two unlabelled images."""
    made = config("swin", heads)
    data = build_data(made)
    model = build_model(made, data.train)
    return model.train(), OutputDistillation(model, teacher, **options).train(), next(iter(data.train_loader()))


def test_missing_labels_are_the_predictions_of_the_teacher(teacher_file: str) -> None:
    """Those of the loaded model on the same images; labels stay."""
    model, method, batch = built(teacher_file, score_threshold=0.1, pixel_threshold=0.1)
    targets = method.pseudo_targets(model, batch)
    teacher = densevit.load(teacher_file)
    grids = [{**target, "original_size": target["size"]} for target in batch["targets"]]
    with torch.no_grad():
        outputs = teacher(batch)
        predictions = teacher.predictions(outputs, grids)
        maps = teacher.heads["surfaces"].maps(outputs["surfaces"], batch["images"].shape[2:]).softmax(1)
    assert all(own[0] == batch["targets"][0] for own in targets.values())
    assert max(float(one["scores"].max()) for one in predictions["detection"][1:]) >= 0.1
    for i in (1, 2):
        boxes, keep = predictions["detection"][i], predictions["detection"][i]["scores"] >= 0.1
        merged = targets["objects"][i] | targets["surfaces"][i] | targets["depth"][i]
        assert torch.equal(merged["labels"], boxes["labels"][keep])
        size = torch.tensor([*merged["size"]]).flip(0).repeat(2)
        torch.testing.assert_close(merged["boxes"], boxes["boxes"][keep].clamp(min=0).minimum(size))
        height, width = merged["size"]
        probability, index = maps[i, :, :height, :width].max(0)
        assert torch.equal(merged["semantic"].long(), torch.where(probability >= 0.1, index, 255))
        torch.testing.assert_close(merged["depth"], predictions["depth"][i]["depth"])


def test_losses_are_those_of_the_heads_on_the_filled_targets(teacher_file: str) -> None:
    model, method, batch = built(teacher_file, score_threshold=0.05)
    losses = method.training_step(model, batch, LossContext())
    targets = method.pseudo_targets(model, batch)
    features = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
    expected = {
        f"{name}/{term}": value
        for name, head in model.heads.items()
        for term, value in head.loss(
            head(features, batch["padding_mask"], targets[name]), targets[name], LossContext()
        ).items()
    }
    assert losses.keys() == expected.keys() and all(value > 0 for value in losses.values())
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


# ---- classes ----


def with_classes(path: Path, detection: Sequence[str], surfaces: Sequence[str]) -> str:
    made = densevit.create_model(
        {"name": "resnet", "depth": 18},
        {"detection": TEACHER["detection"], "surfaces": SETR},
        classes={"detection": detection, "surfaces": surfaces},
        pretrained=False,
    )
    densevit.save(made, path)
    return str(path)


def student(classes: Sequence[str], **heads: Any) -> Any:
    made = densevit.create_model(BACKBONES["swin"], heads, classes=dict.fromkeys(heads, classes), pretrained=False)
    return made.train()


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """A teacher with other classes, in another order: written out for each prediction."""
    teacher = with_classes(tmp_path / "t.safetensors", ["cat", "dog", "bus"], ["sky", "cat", "road", "bus"])
    model = student(["bus", "cat"], objects={"name": "one_stage"}, surfaces=SETR)
    method = OutputDistillation(model, teacher, score_threshold=0.0)
    batch = batch_of((64, 96), (64, 96))
    with torch.no_grad():
        predictions = method.teacher.predictions(method.teacher(batch), batch["targets"])
    targets = method.pseudo_targets(model, batch)
    for i in range(2):
        found = targets["objects"][i] | targets["surfaces"][i]
        names = [("cat", "dog", "bus")[j] for j in predictions["detection"][i]["labels"]]
        assert [("bus", "cat")[j] for j in found["labels"]] == [name for name in names if name != "dog"]
        assert len(found["boxes"]) == len(found["labels"])
        expected = [[255, 1, 255, 0][j] for j in predictions["surfaces"][i]["semantic"].flatten()]
        assert found["semantic"].flatten().tolist() == expected and found["semantic"].dtype == torch.uint8


def test_heads_and_classes_without_teacher_are_an_error(teacher_file: str, tmp_path: Path) -> None:
    teacher = with_classes(tmp_path / "t.safetensors", ["cat"], ["sky"])
    for name, options in (("relative", {}), ("canonical", {"output": "softplus", "camera": "canonical"})):
        head = {"name": "dpt", "width": 8, **options}
        model = densevit.create_model({"name": "resnet", "depth": 18}, {"depth": head}, pretrained=False)
        densevit.save(model, tmp_path / f"{name}.safetensors")
    depth, animals = student([], depth=DEPTH), student(["cat", "bus", "cow"], objects={"name": "one_stage"})
    for model, file, options, error, message in (
        (animals, teacher, {}, ConfigError, r"heads\.objects: the teacher lacks 2 of 3 classes: bus, cow"),
        (depth, teacher, {}, ConfigError, r"heads\.depth is for depth; the teacher has the heads detection"),
        (depth, tmp_path / "relative.safetensors", {}, ConfigError, r"predicts metres, and the teacher relative"),
        (depth, tmp_path / "canonical.safetensors", {}, ConfigError, r"teacher metres of a canonical camera"),
        (depth, "nowhere", {}, WeightsError, r"method\.teacher: nowhere: no such file"),
        (depth, teacher_file, {"score_threshold": 2}, ValueError, r"score_threshold is 2"),
    ):
        with pytest.raises(error, match=message):
            OutputDistillation(model, str(file), **options)
    OutputDistillation(student([], depth={"name": "dpt", "width": 8}), teacher_file)  # from metres: possible


@pytest.mark.integration
def test_training(teacher_file: str, tmp_path: Path) -> None:
    method = {"name": "output_distillation", "teacher": teacher_file, "score_threshold": 0.1}
    run = densevit.fit(config("swin", STUDENT, **method), run_dir=tmp_path / "run")
    assert not any(name.startswith("method.") for name in weights(run.path))  # the teacher is loaded again
    assert checkpoint(resume(run.path, ["trainer.max_steps=3"]))["global_step"] == 3
