"""DINO: self-distillation with no labels (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision
Transformers")."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Batch, LossContext, Losses
from densevit.layers.initial_weights import truncated_normal
from densevit_methods.crops import check_scale, random_views
from densevit_methods.moving_average import Float32Buffer, MovingAverage, cosine_momentum
from densevit_methods.shares import check_shares
from densevit_methods.unlabelled import Unlabelled


class DINO(Unlabelled):
    """The student matches the centred and sharpened output of its moving average, the teacher, on other crops.

    The teacher sees the two global crops, the student all crops (section 3.1). The mean of the backbone's coarsest
    feature describes an image, for any backbone; the paper uses a ViT's class token. The teacher runs in evaluation
    mode, without stochastic depth; the run saves the teacher. Crops replace the transform of `data.transforms`.

    local_crops: the number of local crops. global_size, local_size: sides of the crops in pixels. global_scale,
    local_scale: ranges of the crops' share of the image's area.
    prototypes: the number of outputs, K of the paper.
    momentum: the teacher's momentum at the start, which rises to 1 by a cosine; 0.9995 for batches of 256 images and
        fewer.
    teacher_temperature: rises linearly from the first to the second value during the share `temperature_warmup` of the
        run (appendix D). student_temperature, center_momentum: section 3.1.
    freeze_last_layer: share of the run in which the last layer is frozen; one epoch in the authors' code.
    """

    def __init__(
        self,
        model: Any,
        local_crops: int = 8,
        global_size: int = 224,
        local_size: int = 96,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        prototypes: int = 65536,
        momentum: float = 0.996,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup: float = 0.1,
        student_temperature: float = 0.1,
        center_momentum: float = 0.9,
        freeze_last_layer: float = 0.01,
    ) -> None:
        super().__init__(model)
        if local_crops < 0 or min(global_size, local_size, prototypes) < 1:
            raise ValueError(
                f"local_crops is {local_crops}, global_size {global_size}, local_size {local_size}, prototypes "
                f"{prototypes}; at least 0, and 1 for the others, are expected."
            )
        check_scale("global_scale", global_scale)
        check_scale("local_scale", local_scale)
        check_shares(
            momentum=momentum,
            temperature_warmup=temperature_warmup,
            center_momentum=center_momentum,
            freeze_last_layer=freeze_last_layer,
        )
        if min(*teacher_temperature, student_temperature) <= 0:
            raise ValueError("teacher_temperature and student_temperature must be above 0.")
        self.views = 2 + local_crops
        global_crops = [(global_size, global_scale, 1.0, 0.0), (global_size, global_scale, 0.1, 0.2)]
        self.crops = global_crops + [(local_size, local_scale, 0.5, 0.0)] * local_crops
        self.momentum, self.center_momentum, self.freeze_last_layer = momentum, center_momentum, freeze_last_layer
        self.teacher_temperature, self.temperature_warmup = teacher_temperature, temperature_warmup
        self.student_temperature = student_temperature
        self.head = DINOHead(model.backbone.channels[-1], prototypes)
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.average, self.head_average = MovingAverage(), MovingAverage()
        self.center = Float32Buffer(torch.zeros(prototypes))
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def eval_model(self, model: Any) -> Any:
        return self.teacher

    def transform(self, configured: Any) -> Any:
        """The global and the local crops, with the blur and solarization of BYOL's two views (appendix D)."""
        return random_views(self.crops)

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns `cross_entropy`, the mean over pairs of a global crop (teacher) and another crop (student)."""
        crops = [batch, *batch["other_views"]]
        trained = self.progress >= self.freeze_last_layer
        student = torch.cat(
            [self.head(pooled(model, same), trained) for same in (crops[:2], crops[2:]) if same]
        )  # (crops * B, K)
        with torch.no_grad():
            teacher = self.teacher_head(pooled(self.teacher, crops[:2]))  # (2 B, K)
        loss = self.cross_entropy(student, teacher, self.temperature(self.progress))
        batch_center = context.mean(teacher.mean(0))
        self.center.value.lerp_(batch_center.float(), 1 - self.center_momentum)
        return {"cross_entropy": loss}

    def cross_entropy(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Equation 3. student: (V * B, K), teacher: (2 B, K), crop by crop."""
        log_p = (student / self.student_temperature).log_softmax(1).chunk(self.views)
        target = ((teacher - self.center.value) / temperature).softmax(1).chunk(2)
        pairs = [-(t * s).sum(1).mean() for i, t in enumerate(target) for j, s in enumerate(log_p) if i != j]
        return torch.stack(pairs).mean()

    def temperature(self, progress: float) -> float:
        """The teacher's temperature."""
        first, last = self.teacher_temperature
        done = 1.0 if progress >= self.temperature_warmup else progress / self.temperature_warmup
        return first + (last - first) * done

    def after_step(self, model: Any) -> None:
        weight = 1 - cosine_momentum(self.momentum, self.progress)
        self.average.update(self.teacher, model, weight)
        self.head_average.update(self.teacher_head, self.head, weight)


class DINOHead(nn.Module):
    """A three-layer MLP, then a layer without bias on unit vectors whose rows are unit vectors too (weight
    normalisation with fixed length; section 3.1 and appendix C)."""

    def __init__(self, channels: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.mlp.apply(truncated_normal)
        self.directions = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach().clone())

    def forward(self, x: Tensor, trained: bool = True) -> Tensor:
        """(B, C) -> (B, K) float32. trained: whether the last layer gets a gradient; otherwise it is 0."""
        directions = self.directions if trained else self.directions.detach() + 0 * self.directions
        x = F.normalize(self.mlp(x).float(), dim=1)
        return F.linear(x, F.normalize(directions.float(), dim=1)).float()


def pooled(model: Any, views: list[Batch]) -> Tensor:
    """The mean of the coarsest feature of views of one size, which are not padded: (V * B, C)."""
    images = torch.cat([view["images"] for view in views])
    padding = torch.cat([view["padding_mask"] for view in views])
    pixels = model.normalise(images, padding)
    feature: Tensor = model.backbone(pixels)[-1]
    return feature.mean((2, 3))
