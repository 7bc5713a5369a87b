"""Self-training: classes that are not labelled are learned from the predictions of a teacher."""

from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from densevit.config import Source
from densevit.errors import ConfigError, listed
from densevit.interfaces import Batch, Dataset, LossContext, Losses, Method
from densevit_methods.pseudo_labels import PseudoLabelled, write_predictions
from densevit_methods.teachers import load_teacher, teacher_head

FILE = "pseudo_labels.json"


class SelfTraining(Method):
    """Trains detection heads on labels and, for classes that are not labelled in an image, on a teacher's predictions.

    With `data.labelled_classes=new`, the classes of `weights` are learned from its model's predictions while new ones
    are learned from labels (incremental detection, CL-DETR, Liu et al. 2023, section 3.2).

    The teacher predicts all training images once, before training, to `pseudo_labels.json` in the run folder: a COCO
    json with scores, as of `densevit data prelabel`. Predictions with at least the teacher's score threshold become
    objects, except at a labelled object (IoU 0.7 or more); elsewhere their classes are negatives. Their class losses
    have their scores as weights (`label_weights`), except in torchvision's heads.

    teacher: a source of `densevit.load`, such as a run folder; None: `weights`.
    classes: names of the teacher's classes to learn from it; "old": all that it has.
    """

    needs_heads = True
    needs_labels = True
    any_channels = True

    def __init__(self, model: Any, teacher: Source | None = None, classes: Literal["old"] | list[str] = "old") -> None:
        super().__init__(model)
        source = teacher or model.sections.weights
        if source is None:
            raise ConfigError("method.teacher is missing. Fix: teacher=RUN, or weights=RUN, which is then the teacher.")
        for name, head in model.heads.items():
            if not {*head.required_targets} <= {"boxes", "labels", "masks"}:
                raise ConfigError(
                    f"heads.{name} needs {', '.join(head.required_targets)}; the method self_training predicts boxes, "
                    "labels and masks. Fix: use another head, or another method."
                )
        self.source, self.classes, self._student = source, classes, (model,)  # a tuple: not a module of the method

    def training_data(self, dataset: Dataset, folder: Path) -> Dataset:
        """The data set with labels of `pseudo_labels.json`, which is written first if it is missing."""
        file, [student] = folder / FILE, self._student
        [name, *_] = student.heads
        with FileLock(folder / f"{FILE}.lock"):  # of several processes, one predicts
            if not file.is_file():
                teacher = load_teacher(self.source)
                write_predictions(teacher, teacher_head(teacher, student, name), dataset, file)
        labelled = PseudoLabelled(dataset, file, student.heads[name].classes_from(dataset))
        if self.classes != "old":
            if missing := [c for c in self.classes if c not in labelled.teacher_classes]:
                raise ConfigError(
                    f"method.classes: the teacher has no {listed(missing, 3)}. It has "
                    f"{listed(sorted(labelled.teacher_classes), 8)}."
                )
            labelled.teacher_classes &= {*self.classes}
        return labelled

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        losses: Losses = model.losses_of(model(batch), batch["targets"], context)
        return losses
