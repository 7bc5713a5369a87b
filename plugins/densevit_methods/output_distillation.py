"""Output distillation: a model learns the predictions of a larger model as targets ("pseudo-labels", Lee 2013; for
detection "data distillation", Radosavovic et al. 2018)."""

from typing import Any

import torch
from torch import Tensor

from densevit.config import Source
from densevit.errors import ConfigError
from densevit.interfaces import IGNORE, Batch, Head, LossContext, Losses, Targets
from densevit.losses.distributed import to_device
from densevit_methods.pseudo_targets import check_head, missing_labels, predicted_targets, selected
from densevit_methods.shares import check_shares
from densevit_methods.teachers import class_rows, load_teacher, teacher_head
from densevit_methods.unlabelled import Unlabelled


class OutputDistillation(Unlabelled):
    """Trains the heads with their losses on a frozen teacher's predictions, for images without labels.

    Labels are used where images have them. Teacher and student see the same images, and may have different backbones
    and heads: a head learns from the teacher's head of the same name and task, or from the only head of its task. Each
    class of the student must be a class of the teacher, by name; objects of other classes are left out, their pixels
    ignored.

    teacher: a source of `densevit.load`, such as a run folder, a model file or `hf:ORG/NAME`.
    score_threshold: objects with a smaller score are left out. None: the threshold from the teacher's validation,
        stored in its model file, or 0.5.
    pixel_threshold: pixels of a class map whose class has a smaller probability are ignored.
    """

    needs_heads = True
    external_modules = ("teacher",)

    def __init__(
        self, model: Any, teacher: Source, score_threshold: float | None = None, pixel_threshold: float = 0.0
    ) -> None:
        super().__init__(model)
        check_shares(score_threshold=score_threshold, pixel_threshold=pixel_threshold)
        for name, head in model.heads.items():
            check_head(name, head, "output_distillation")
        self.teacher = load_teacher(teacher)
        self.teacher_heads = {name: teacher_head(self.teacher, model, name) for name in model.heads}
        self.class_tables = {}
        for name, other in self.teacher_heads.items():
            check_head(other, self.teacher.heads[other], "output_distillation (its teacher)")
            _check_depth(name, model.heads[name], self.teacher.heads[other])
            known_classes = [cls.name for cls in self.teacher.classes[other]]
            self.class_tables[name] = _class_table(class_rows(known_classes, model, name), len(known_classes))
        _check_input_size(self.teacher.backbone.input_size, model.backbone.input_size)
        thresholds = None if score_threshold is None else dict.fromkeys(self.teacher.heads, score_threshold)
        self.score_thresholds = thresholds or self.teacher.default_thresholds
        self.pixel_threshold = pixel_threshold

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns the losses of the heads on labels and predictions together."""
        head_targets = self.pseudo_targets(model, batch)
        outputs = model(batch, head_targets=head_targets)
        losses: Losses = model.losses_of(outputs, batch["targets"], context, head_targets)
        return losses

    def pseudo_targets(self, model: Any, batch: Batch) -> dict[str, list[Targets]]:
        """Returns each head's targets of a batch, with its teacher's predictions where an image lacks its labels."""
        predicted = predicted_targets(self.teacher, batch, self.score_thresholds, self.pixel_threshold)
        missing = [missing_labels(model.heads, target) for target in batch["targets"]]
        converted = {
            name: _with_classes(predicted[other], self.class_tables[name]) for name, other in self.teacher_heads.items()
        }
        return {
            name: [target | targets[i] if name in missing[i] else target for i, target in enumerate(batch["targets"])]
            for name, targets in converted.items()
        }


def _class_table(rows: Tensor, count: int) -> Tensor:
    """The student's class of each class of the teacher and of IGNORE, (256 or more,) int64; -1: none."""
    table = torch.full((max(count, IGNORE + 1),), -1, dtype=torch.int64)
    table[rows] = torch.arange(len(rows))
    return table


def _with_classes(targets: list[Targets], table: Tensor) -> list[Targets]:
    """The teacher's targets of images in the classes of the student."""
    if "labels" in targets[0]:
        table = to_device(table, targets[0]["labels"].device)
        labelled = [{**target, "labels": table[target["labels"]]} for target in targets]
        return selected(labelled, [target["labels"] >= 0 for target in labelled])
    if "semantic" in targets[0]:
        table = to_device(table, targets[0]["semantic"].device)
        maps = [(target["semantic"].dtype, table[target["semantic"].long()]) for target in targets]
        return [{"semantic": x.masked_fill(x < 0, IGNORE).to(dtype)} for dtype, x in maps]
    return targets


def _check_depth(name: str, head: Head, teacher: Head) -> None:
    """Raises ConfigError if a head predicts metres, and its teacher relative depth or metres of a canonical camera."""
    if teacher.canonical_focal is not None and head.canonical_focal is None:
        raise ConfigError(
            f"heads.{name} predicts metres, and the teacher metres of a canonical camera. Fix: camera: canonical."
        )
    if head.depth_type == "depth" and teacher.depth_type == "inverse_depth":
        raise ConfigError(
            f"heads.{name} predicts metres, and the teacher relative inverse depth. Fix: output: relative, or a "
            "teacher for metric depth."
        )


def _check_input_size(teacher_size: tuple[int, int] | None, student_size: tuple[int, int] | None) -> None:
    """Raises ConfigError if the teacher has a fixed input size and the student another size or none."""
    if teacher_size is not None and teacher_size != student_size:
        raise ConfigError(
            f"method.teacher: its backbone has the fixed input size {tuple(teacher_size)}, and the student "
            f"{'none' if student_size is None else tuple(student_size)}. Fix: a teacher for any input size."
        )
