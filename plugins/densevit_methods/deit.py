"""Distillation of image classifiers, with DeiT's distillation token (Touvron et al. 2021, section 4)."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.config import Source
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Batch, LossContext, Losses, Method
from densevit.layers.precision import autocast_off
from densevit_methods.classifiers import DenseClassifier, TimmClassifier
from densevit_methods.shares import check_shares
from densevit_methods.teachers import class_rows, load_teacher, teacher_head

_SECOND = "distillation_cross_entropy"  # the term of the head `classifier` that distillation replaces


class DeiT(Method):
    """Trains a classifier with two tokens: the class token on labels, the distillation token on a frozen teacher.

    With share a, the loss is (1 - a) CE(logits, label) plus
    hard: a CE(distillation_logits, teacher's class), equation 3 for a = 1/2;
    soft: a t^2 KL(softmax(teacher's logits / t) || softmax(distillation_logits / t)), equation 2, a mean over images.
    The authors' code also divides the soft term by the number of classes, so the same a distils less.

    Images without labels have the second term only. Other heads keep their losses. Both models see the same images,
    also mixed ones (`data.mixup`), each in its own normalisation.

    teacher: a source of `densevit.load`, a model with a head for the same task; or a published classifier,
        `timm:NAME[.TAG]`. Each class must be a class of the teacher, by name; timm's classes have the names of
        ImageNet's folders.
    distillation: "hard", the paper's choice, or "soft".
    share: a, the paper's lambda. temperature: t, the paper's tau, for soft distillation. The paper's values for soft
        distillation are 0.1 and 3.
    """

    needs_heads = True
    external_modules = ("teacher",)

    def __init__(
        self,
        model: Any,
        teacher: Source,
        distillation: Literal["hard", "soft"] = "hard",
        share: float = 0.5,
        temperature: float = 3.0,
    ) -> None:
        super().__init__(model)
        check_shares(share=share)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; a positive number is expected.")
        self.head = _classifier(model)
        self.teacher = _teacher(teacher, model, self.head)
        self.rows = class_rows(self.teacher.class_names, model, self.head)
        self.distillation, self.share, self.temperature = distillation, share, temperature

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        outputs = model(batch)
        losses: Losses = model.losses_of(outputs, batch["targets"], context)
        term = f"{self.head}/{_SECOND}"
        logits = outputs[self.head]["distillation_logits"]
        target = self.log_probabilities(batch)
        with autocast_off(logits.device):
            each = self.errors(logits.float(), target)
        mean = each.sum() / context.mean(each.new_tensor(float(len(each))))
        first = f"{self.head}/cross_entropy"  # the head halves it
        return losses | {
            first: 2 * (1 - self.share) * losses[first],
            term: model.loss_weights[self.head] * self.share * mean,
        }

    def errors(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """The distillation loss of each image (B,). logits: (B, K). teacher: log-probabilities (B, K)."""
        if self.distillation == "hard":
            return F.cross_entropy(logits, teacher.argmax(1), reduction="none")
        t = self.temperature
        target = (teacher / t).log_softmax(1)
        return t**2 * F.kl_div((logits / t).log_softmax(1), target, reduction="none", log_target=True).sum(1)

    @torch.no_grad()
    def log_probabilities(self, batch: Batch) -> Tensor:
        """The teacher's log-probabilities (B, K) of the student's classes, up to a constant of each image.

        They can replace logits, because a softmax does not depend on such constants.
        """
        scores: Tensor = self.teacher(batch)
        return scores[:, self.rows.to(scores.device)]


def _teacher(source: str, model: Any, head: str) -> DenseClassifier | TimmClassifier:
    if source.startswith("timm:"):
        try:
            return TimmClassifier(source).requires_grad_(False).eval()
        except WeightsError as error:
            raise WeightsError(f"method.teacher: {error}") from None
    teacher = load_teacher(source)
    return DenseClassifier(teacher, teacher_head(teacher, model, head)).eval()


def _classifier(model: Any) -> str:
    """The name of the head with two tokens. Raises ConfigError unless there is one, with a fixed loss weight."""
    names = [name for name, head in model.heads.items() if getattr(head, "tokens", 0) == 2]
    if len(names) != 1:
        raise ConfigError(
            f"the method deit needs one head with a distillation token; {len(names)} of {len(model.heads)} heads have "
            "it. Fix: backbone: {name: vit, distillation_token: true}, heads: {classification: {name: classifier, "
            "tokens: 2}}."
        )
    if model.loss_weights[names[0]] == "learned":
        raise ConfigError(f"heads.{names[0]}.loss_weight is learned; the method deit needs a number.")
    return names[0]
